"""How far an unlearned model is from one that was retrained without the forgotten data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Estimate
from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.answers import Answers, finite_scores
from efface.metrics.estimates import mean, rate
from efface.randomness import split

__all__ = ["Gap", "Gaps", "agreement", "gaps", "klom", "klom_histogram", "mean_klom"]

DRAWS = 2000
BINS = 20
"""Bins of KLoM's histograms in the authors' benchmark [recalled]."""
MOST_MARGIN = 100.0
"""Margins beyond it are taken for it, as there [recalled]."""
FLOOR = 1e-5
"""Added to every bin's share before they are divided [recalled]."""


@dataclass(frozen=True)
class Gap:
    """One metric of the unlearned models against the same of the retrained ones."""

    difference: Estimate
    """Unlearned minus retrained."""
    size: Estimate
    """Without its sign. A size is never below zero, so noise alone makes it positive: look at
    whether the interval of ``difference`` holds 0."""


@dataclass(frozen=True)
class Gaps:
    """The gap of every metric, and their average, which papers sort methods by."""

    by_metric: dict[str, Gap]
    average: Estimate


def gaps(
    unlearned: Mapping[str, Sequence[float]],
    retrained: Mapping[str, Sequence[float]],
    *,
    generator: torch.Generator,
) -> Gaps:
    """Compares the means of several metrics over seeds, with bootstrap intervals.

    Seeds are drawn with replacement, all metrics of a seed together, and unlearned and retrained
    ones apart. Intervals are percentiles; with one seed on a side they are NaN, since there is no
    spread to draw from.

    Args:
        unlearned: by metric, one value per seed.
        retrained: the same metrics; the number of seeds may differ.
        generator: draws seeds.

    Raises:
        BadRequest: the metrics are not the same, or one has another number of seeds.
        MeasurementFailed: there is no value, or one is not finite.
    """
    if not unlearned or set(unlearned) != set(retrained):
        raise BadRequest(
            f"metrics {sorted(unlearned)} and {sorted(retrained)} must be the same, at least one"
        )
    names = list(unlearned)
    first, second = _table(unlearned, names), _table(retrained, names)
    draws = split(generator, "unlearned", "retrained")
    drawn = _resampled(first, draws["unlearned"]) - _resampled(second, draws["retrained"])
    difference = first.mean(dim=0) - second.mean(dim=0)
    count = first.shape[0] + second.shape[0]
    told = min(first.shape[0], second.shape[0]) > 1
    found = {
        name: Gap(
            _percentiles(difference[place], drawn[:, place], count, told=told),
            _percentiles(difference[place].abs(), drawn[:, place].abs(), count, told=told),
        )
        for place, name in enumerate(names)
    }
    average = _percentiles(difference.abs().mean(), drawn.abs().mean(dim=1), count, told=told)
    return Gaps(found, average)


def klom(
    unlearned: Float[Tensor, "models n"], retrained: Float[Tensor, "others n"]
) -> Float[Tensor, " n"]:
    """Gives each picture's divergence of margins, retrained from unlearned, by normal fits.

    KLoM (Georgiev et al., "Attribute-to-Delete", ICLR 2025 [recalled]) is the KL divergence of the
    distribution of a picture's logit margin over retrained models from that over unlearned ones.
    Here both are fitted by a normal distribution, which few models allow; variances are at least a
    millionth of the pooled one. It is not 0 for finite ensembles of equal distributions: measure
    two halves of the retrained models to see what no difference looks like.

    Args:
        unlearned: `Answers.margins`, one row per unlearned model.
        retrained: the same for retrained models.

    Raises:
        MeasurementFailed: fewer than two models on a side, or no spread in either.
    """
    first, second = _margins(unlearned, retrained)
    least = 1e-6 * float((first.var(dim=0).mean() + second.var(dim=0).mean()) / 2)
    if least <= 0:
        raise MeasurementFailed(
            "all models give the very same margins, so they have no distribution; train them with "
            "different seeds"
        )
    q, p = first.var(dim=0).clamp(min=least), second.var(dim=0).clamp(min=least)
    shift = (second.mean(dim=0) - first.mean(dim=0)).square()
    return 0.5 * ((q / p).log() + (p + shift) / q - 1)


def klom_histogram(
    unlearned: Float[Tensor, "models n"], retrained: Float[Tensor, "others n"]
) -> Float[Tensor, " n"]:
    """Gives the same divergence from histograms, as the authors' benchmark does [recalled].

    `BINS` equal bins from the smallest to the largest margin of both ensembles, margins kept within
    `MOST_MARGIN`, `FLOOR` added to every bin. Meant for a hundred models; with five it is coarse.

    Raises:
        MeasurementFailed: fewer than two models on a side.
    """
    both = [one.clamp(-MOST_MARGIN, MOST_MARGIN) for one in _margins(unlearned, retrained)]
    low = torch.cat(both).amin(dim=0)
    width = (torch.cat(both).amax(dim=0) - low).clamp(min=1e-12)
    shares = []
    for margins in both:
        places = ((margins - low) / width * BINS).long().clamp(max=BINS - 1)
        counts = torch.zeros(BINS, margins.shape[1], dtype=torch.float64)
        counts.scatter_add_(0, places, torch.ones_like(margins))
        filled = counts / len(margins) + FLOOR
        shares.append(filled / filled.sum(dim=0))
    q, p = shares
    return (p * (p / q).log()).sum(dim=0)


def agreement(first: Answers, second: Answers) -> Estimate:
    """Estimates how often two models predict the same class.

    Raises:
        BadRequest: they were not asked about the same pictures.
    """
    if first.logits.shape != second.logits.shape or not torch.equal(
        first.labels.cpu(), second.labels.cpu()
    ):
        raise BadRequest(
            f"answers of shape {tuple(first.logits.shape)} and {tuple(second.logits.shape)} are "
            "not about the same pictures and classes; ask both models the same"
        )
    return rate((first.predictions.cpu() == second.predictions.cpu()).double().tolist())


def mean_klom(divergences: Float[Tensor, " n"]) -> Estimate:
    """Estimates the mean divergence over pictures, with a t interval."""
    return mean(finite_scores(divergences, "divergences").tolist())


def _table(values: Mapping[str, Sequence[float]], names: list[str]) -> Float[Tensor, "seeds m"]:
    sizes = {len(values[name]) for name in names}
    if len(sizes) != 1:
        raise BadRequest(f"metrics have {sorted(sizes)} seeds; give every metric of every seed")
    columns = [
        finite_scores(torch.tensor(values[name], dtype=torch.float64), f"values of {name}")
        for name in names
    ]
    return torch.stack(columns, dim=1)


def _resampled(table: Tensor, generator: torch.Generator) -> Float[Tensor, "draws m"]:
    places = torch.randint(len(table), (DRAWS, len(table)), generator=generator)
    return table[places].mean(dim=1)


def _percentiles(value: Tensor, drawn: Tensor, count: int, *, told: bool) -> Estimate:
    if not told:
        return Estimate(float(value), math.nan, math.nan, count)
    ends = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=drawn.dtype))
    return Estimate(float(value), float(ends[0]), float(ends[1]), count)


def _margins(unlearned: Tensor, retrained: Tensor) -> tuple[Tensor, Tensor]:
    if unlearned.ndim != 2 or unlearned.shape[1:] != retrained.shape[1:]:
        raise BadRequest(
            f"margins have shapes {tuple(unlearned.shape)} and {tuple(retrained.shape)}; give "
            "(models, pictures) with the same pictures"
        )
    if min(len(unlearned), len(retrained)) < 2:
        raise MeasurementFailed(
            f"{len(unlearned)} unlearned and {len(retrained)} retrained models give no "
            "distribution; train at least two of each"
        )
    first, second = (
        finite_scores(one.flatten(), "margins").reshape(one.shape) for one in (unlearned, retrained)
    )
    return first, second
