"""What is stacked: a LoRA of the base, trained once, and other erasures written out."""

import pytest
import torch

from efface.attacks.stacking import Stacking
from efface.errors import BadRequest
from efface.hosts.components import parameters
from tests.attacks.toys import course, erasure, left_as_found, target_of

OTHERS = ("the church", "a tree", "a lamp", "art by monet")
SMALL = {"steps": 2, "batch": 2, "pictures": 2, "rank": 2}


@pytest.mark.thorough
def test_the_lora_is_that_of_the_base_and_counted_once(tiny_sd1):
    found = []
    for delta in (None, erasure(tiny_sd1)):
        target = target_of(tiny_sd1, delta, others=OTHERS)
        with left_as_found(tiny_sd1):
            half, whole = course(Stacking(scales=(0.5, 1.0), **SMALL), target)
        assert [one.spent for one in (*half, *whole)] == [4, 4, 0, 0]
        assert target.evaluations - target.setup == 4
        found.append((half[0].added, whole[0].added))
    for key, patch in found[0][1].items():
        assert torch.equal(patch.up, found[1][1][key].up), "the erasure had no part in it"
        assert torch.equal(0.5 * patch.up, found[0][0][key].up)


def test_another_erasure_on_top_adds_what_it_adds_to_the_base(tiny_sd1):
    delta, other = erasure(tiny_sd1, "esd"), erasure(tiny_sd1)
    target = target_of(tiny_sd1, delta, deltas=(other,))
    (attempts,) = course(Stacking(scales=()), target)
    base = {key: weight.detach().clone() for key, weight in parameters(tiny_sd1)}
    with other.apply(tiny_sd1):
        alone = {key: weight.detach().clone() for key, weight in parameters(tiny_sd1)}
    for key, patch in attempts[0].added.items():
        assert torch.allclose(base[key] + patch.difference, alone[key], atol=1e-6)
    assert attempts[0].note == "with another erasure (uce)"


def test_without_others_the_lora_is_refused(tiny_sd1):
    with pytest.raises(BadRequest, match="no prompts of any were given"):
        course(Stacking(**SMALL), target_of(tiny_sd1, None))
