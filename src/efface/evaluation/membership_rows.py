"""Rows that say whether a recogniser still shows which forgotten pictures it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.data.pictures import LabelledPictures, Part, of_classes, without_classes
from efface.evaluation.answers import Answers
from efface.evaluation.membership import ThresholdAttack, threshold_attack, true_confidence
from efface.evaluation.ranking import auc
from efface.evaluation.record import Measurement
from efface.randomness import derive

__all__ = ["TrainedOn", "membership_rows", "trained_on"]

MOST = 512
"""Pictures of each kind that are asked about, drawn by a fixed seed."""
LEAST = 4
"""Pictures of each kind below which nothing is said."""

T = TypeVar("T")


@dataclass(frozen=True)
class TrainedOn(Generic[T]):
    """Pictures that the model was trained on, or what a model answers to them."""

    forgotten: T
    """Of classes that are erased."""
    retained: T
    """Of all others."""


def trained_on(
    pictures: LabelledPictures, erased: tuple[int, ...], earlier: tuple[int, ...] = ()
) -> TrainedOn[LabelledPictures] | None:
    """Draws training pictures of what is erased and of what stays; None where either lacks.

    Args:
        pictures: what the model was trained on, numbered as its head is.
        erased: classes of this request.
        earlier: classes that earlier requests erased, of which none is drawn.
    """
    forgotten = of_classes(pictures, erased)
    retained = without_classes(pictures, (*erased, *earlier))
    if min(len(forgotten), len(retained)) < LEAST:
        return None
    return TrainedOn(_drawn(forgotten, "forgotten"), _drawn(retained, "retained"))


def _drawn(pictures: LabelledPictures, purpose: str) -> LabelledPictures:
    order = torch.randperm(len(pictures), generator=derive(0, "membership", purpose))
    return Part(pictures, order[:MOST].sort().values)


def membership_rows(
    labels: TrainedOn[Int[Tensor, " n"]],
    logits: tuple[TrainedOn[Float[Tensor, "n classes"]], TrainedOn[Float[Tensor, "n classes"]]],
    held_out: tuple[TrainedOn[Answers], TrainedOn[Answers]],
) -> Iterator[Measurement]:
    """Attacks both models; nothing is said where there are too few pictures of a kind.

    ``called_member``: the share of forgotten training pictures above the threshold that tells
    retained training pictures from retained held-out ones (the complement of the papers' "MIA").
    ``membership``: the area by which forgotten training pictures are told from held-out pictures of
    their own classes; 0.5 is not at all, also where the class is no longer recognised.

    Args:
        labels: the classes of training pictures.
        logits: the unedited and the edited model's, for the same pictures.
        held_out: both models' answers to pictures that neither saw.
    """
    if min(len(each) for each in (held_out[0].forgotten, held_out[0].retained)) < LEAST:
        return
    attacks, areas = list[ThresholdAttack](), []
    for seen, outside in zip(logits, held_out, strict=True):
        forgotten = Answers(seen.forgotten, labels.forgotten)
        attacks.append(
            threshold_attack(
                Answers(seen.retained, labels.retained),
                outside.retained,
                forgotten,
                generator=derive(0, "membership", "split"),
            )
        )
        areas.append(auc(true_confidence(forgotten), true_confidence(outside.forgotten)))
    yield Measurement(
        metric="called_member",
        unit="rate",
        better="lower",
        role="erased",
        before=attacks[0].called_member,
        after=attacks[1].called_member,
    )
    yield Measurement(
        metric="membership",
        unit="auc",
        better="lower",
        role="erased",
        before=areas[0],
        after=areas[1],
    )
