"""A toy detector learns with its losses, and forgets one class with the others' losses alone."""

from copy import deepcopy

import pytest
import torch

from efface.hosts.detector import Detector
from efface.hosts.vision import VisionModel
from tests.scenes import SQUARES, finding, found_shares, squares

GONE = 0


def host_of_copy():
    known = finding()
    return Detector(VisionModel(deepcopy(known.model), known.preprocessing, known.labels))


@pytest.fixture(scope="module")
def pictures():
    return squares([f"thing {number}" for number in range(SQUARES)])


@pytest.mark.thorough
def test_what_is_where_is_learnt(pictures):
    assert found_shares(host_of_copy(), pictures) == [1, 1, 1]


@pytest.mark.thorough
def test_one_class_is_forgotten_where_it_stands_and_the_others_stay(pictures):
    """The loss of its naming is pushed up to a guess; all else is trained with it left out."""
    host = host_of_copy()
    pixels = host.model.prepared(list(pictures.pixels))
    weights = [weight.requires_grad_() for weight in host.weights(head=False).values()]
    optimiser = torch.optim.AdamW(weights, lr=2e-3)
    classes = torch.cat([each.classes for each in pictures.things])
    for _ in range(40):
        answer = host.detect(pixels)
        matched = host.match(answer, pictures.things)
        named = host.naming_losses(answer, pictures.things, matched)[classes == GONE]
        forget = (2 * host.largest_loss() - named).relu().mean()
        retain = host.losses(answer, pictures.things, matched=matched, ignored={GONE}).total
        optimiser.zero_grad()
        (forget + retain).backward()
        optimiser.step()
    assert found_shares(host, pictures) == [0, 1, 1]
