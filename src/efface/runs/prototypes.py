"""What the features of a class are on average, and how far features are from that."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from efface.deltas.application import unedited

if TYPE_CHECKING:
    from efface.runs.forgetting import ForgettingRun

__all__ = ["class_means", "prototype_divergence"]

_KINDS: tuple[Literal["forget", "retain"], ...] = ("forget", "retain")


def class_means(run: ForgettingRun, *, original: bool) -> Float[Tensor, "classes dim"]:
    """Averages the features of every class of a run's pictures; others' are zero.

    Args:
        run: has the pictures, and the model as it is now.
        original: whether the unedited model's features are taken instead.
    """
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    with torch.no_grad(), unedited(run.model) if original else nullcontext():
        for kind in _KINDS:
            pictures = run.forget if kind == "forget" else run.retain
            for which in run.every(kind):
                batch = run.read(pictures, which)
                features = run.host.features(batch.pixels)
                for label in batch.labels.unique().tolist():
                    own = features[batch.labels == label]
                    sums[label] = sums.get(label, 0) + own.sum(0)
                    counts[label] = counts.get(label, 0) + len(own)
    first = next(iter(sums.values()))
    means = first.new_zeros(run.host.classes, len(first))
    for label, total in sums.items():
        means[label] = total / counts[label]
    return means


def prototype_divergence(
    prototypes: Float[Tensor, "n dim"], features: Float[Tensor, "n dim"]
) -> Float[Tensor, " n"]:
    """Gives ``KL(softmax(prototype) || softmax(feature))`` of each picture."""
    return functional.kl_div(
        features.log_softmax(1), prototypes.log_softmax(1), reduction="none", log_target=True
    ).sum(1)
