"""Are two pictures of the same identity, and whose? Measured on embeddings alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from efface.contracts import Estimate
from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.ranking import OperatingPoint, area, auc_interval, operating_point
from efface.metrics.estimates import rate

__all__ = ["Identification", "Pairs", "Verification", "identification", "pairs", "verification"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Cosines of all pairs of pictures, sorted by whether they show the same identity."""

    same: Float[Tensor, " n"]
    different: Float[Tensor, " m"]
    same_identity: tuple[int, ...]
    """Whose pair each of ``same`` is."""
    different_identity: tuple[int, ...]
    """The lower of the two identities of each of ``different``."""
    pictures: int


@dataclass(frozen=True)
class Verification:
    """How well embeddings tell whether two pictures show the same identity."""

    auc: Estimate
    """Its interval counts pictures, not pairs, since pairs share pictures."""
    at: dict[float, OperatingPoint]
    """By false positive rate. Intervals group pairs by identity."""


@dataclass(frozen=True)
class Identification:
    """Whose picture is it, if anybody's: at a threshold that lets few strangers through."""

    recognised: Estimate
    """Pictures of known identities that are called by the right name."""
    false_alarms: Estimate
    """Pictures of strangers that are called by any name."""
    threshold: float
    """Cosines at or above it are called by the nearest identity's name."""


def pairs(embeddings: Float[Tensor, "n dim"], identities: Int[Tensor, " n"]) -> Pairs:
    """Gives the cosines of all pairs of pictures, each pair once.

    Raises:
        MeasurementFailed: no pair shows the same identity, or none different ones.
    """
    unit = _unit(embeddings, identities)
    rows, columns = torch.triu_indices(len(unit), len(unit), offset=1)
    cosines = (unit @ unit.T)[rows, columns]
    known = identities.to("cpu", torch.int64)
    alike = known[rows] == known[columns]
    if not alike.any() or alike.all():
        raise MeasurementFailed(
            f"{len(unit)} pictures of {len(known.unique())} identities give {int(alike.sum())} "
            f"pairs of the same and {int((~alike).sum())} of different ones; give two pictures "
            "each of two identities at least"
        )
    lower = torch.minimum(known[rows], known[columns])
    return Pairs(
        cosines[alike],
        cosines[~alike],
        tuple(known[rows][alike].tolist()),
        tuple(lower[~alike].tolist()),
        len(unit),
    )


def verification(
    embeddings: Float[Tensor, "n dim"],
    identities: Int[Tensor, " n"],
    *,
    false_positive_rates: Sequence[float] = (0.01, 0.001),
) -> Verification:
    """Measures verification on all pairs of pictures.

    Raises:
        MeasurementFailed: no pair shows the same identity, or none different ones.
    """
    given = pairs(embeddings, identities)
    value = area(given.same, given.different)
    low, high = auc_interval(value, given.pictures, given.pictures)
    count = len(given.same) + len(given.different)
    points = {
        limit: operating_point(
            given.same,
            given.different,
            false_positive_rate=limit,
            groups=(given.same_identity, given.different_identity),
        )
        for limit in false_positive_rates
    }
    return Verification(Estimate(value, low, high, count), points)


def identification(
    gallery: tuple[Float[Tensor, "g dim"], Int[Tensor, " g"]],
    probes: tuple[Float[Tensor, "n dim"], Int[Tensor, " n"]],
    strangers: Float[Tensor, "m dim"],
    *,
    false_alarm_rate: float = 0.01,
) -> Identification:
    """Measures open-set identification: rank one at a rate of false alarms.

    An identity is the mean direction of its pictures in the gallery. A picture is recognised when
    its own identity is nearer than all others (a tie is not) and reaches the threshold, which is
    the lowest that keeps strangers within the rate.

    Args:
        gallery: embeddings and identities that are known.
        probes: embeddings and identities to recognise; all of them are in the gallery.
        strangers: embeddings of identities that are not in the gallery.
        false_alarm_rate: of strangers, 0 up to 1.

    Raises:
        BadRequest: a probe's identity is not in the gallery.
    """
    known, templates = _templates(*gallery)
    unit = _unit(*probes)
    owners = probes[1].to("cpu", torch.int64)
    absent = sorted(set(owners.tolist()) - set(known.tolist()))
    if absent:
        raise BadRequest(
            f"identities {absent[:5]} are asked for but not in the gallery; they are strangers"
        )
    unknown = _unit(strangers, torch.zeros(len(strangers), dtype=torch.int64)) @ templates.T
    cosines = unit @ templates.T
    own = cosines.gather(1, torch.searchsorted(known, owners)[:, None]).squeeze(1)
    rivals = cosines.masked_fill(known[None] == owners[:, None], -math.inf).amax(dim=1)
    best = unknown.amax(dim=1)
    threshold = operating_point(own, best, false_positive_rate=false_alarm_rate).threshold
    right = (own > rivals) & (own >= threshold)
    return Identification(
        recognised=rate(right.double().tolist(), owners.tolist()),
        false_alarms=rate((best >= threshold).double().tolist()),
        threshold=threshold,
    )


def _unit(embeddings: Tensor, identities: Tensor) -> Float[Tensor, "n dim"]:
    """Scales embeddings to length one, in float64 on the CPU."""
    if embeddings.ndim != 2 or identities.shape != embeddings.shape[:1]:
        raise BadRequest(
            f"embeddings of shape {tuple(embeddings.shape)} and identities of shape "
            f"{tuple(identities.shape)} do not fit; give (n, dim) and (n,)"
        )
    if not len(embeddings):
        raise MeasurementFailed("there are no embeddings; give at least one picture")
    kept = embeddings.detach().to("cpu", torch.float64)
    lengths = kept.norm(dim=1)
    broken = int((~torch.isfinite(lengths) | (lengths == 0)).sum())
    if broken:
        raise MeasurementFailed(
            f"{broken} of {len(kept)} embeddings are zero or not finite, so they have no "
            "direction; see what the model computes for them"
        )
    return functional.normalize(kept, dim=1)


def _templates(embeddings: Tensor, identities: Tensor) -> tuple[Tensor, Tensor]:
    unit = _unit(embeddings, identities)
    known, places = identities.to("cpu", torch.int64).unique(return_inverse=True)
    sums = torch.zeros(len(known), unit.shape[1], dtype=unit.dtype).index_add(0, places, unit)
    return known, _unit(sums, known)
