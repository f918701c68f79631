"""Is the edited model still a model? Its pictures of other prompts, and what its weights do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from efface.concepts import Concept, Erasure, ErasureRequest
from efface.contracts import Estimate, Role, Sample
from efface.errors import BadRequest, EffaceError, ModelCollapsed, NothingChanged
from efface.evaluation.controls import Asked
from efface.evaluation.images import Source
from efface.evaluation.likeness import LEAST_SEEN, Likeness, likeness, roughness, thumbnails
from efface.evaluation.record import Control
from efface.evaluation.samples import STAYING, in_role
from efface.evaluation.scoring import Scorer
from efface.metrics.estimates import rate
from efface.metrics.presence import Presence
from efface.runs.checks import inspect

if TYPE_CHECKING:
    from torch import Tensor

    from efface.deltas.delta import Delta

__all__ = ["detected", "still_draws"]


def still_draws(
    scorer: Scorer, asked: Asked | None, samples: Sequence[Sample], sources: Sequence[Source]
) -> Control:
    """Checks that the edited model still draws what it drew for prompts that must stay.

    A wrecked model shows no concept at all, and so none that was to go. What tells it from a sound
    erasure is measured on both: see `efface.evaluation.likeness`. Where no judge is asked, pictures
    alone decide.
    """
    staying = in_role(samples, *STAYING)
    seen = None if asked is None else _seen(scorer, asked, staying, sources)
    like = _likeness(scorer, staying, sources)
    found = [] if like is None else [*like.complaints()]
    if seen is not None and not seen[1].value >= LEAST_SEEN * seen[0].value:
        found.append(
            f"the judge sees what other prompts ask for in {seen[1].hits} of {seen[1].count} "
            f"pictures, in {seen[0].hits} before (at least {LEAST_SEEN:.0%} of those in sound "
            "erasures)"
        )
    return Control(
        name="model",
        concept="",
        passed=like is not None and not found,
        estimate=None if seen is None else seen[1],
        requirement="the edited model still draws what other prompts ask for",
        details=tuple(found),
    )


def detected(pipe: Any, delta: Delta, samples: Sequence[Sample]) -> Control:
    """Runs the detectors that follow every erasure, whoever made the delta.

    Prompts that the text encoder cannot read whole are left to the pictures: pipelines cut them.
    """
    found: tuple[str, ...] = ()
    needed = "the edit changes what the model makes of the erased prompts, and not of all"
    wanted = _request(samples)
    try:
        try:
            inspect(pipe, delta, wanted)
        except BadRequest:
            inspect(pipe, delta, replace(wanted, keep=()))
    except (NothingChanged, ModelCollapsed) as error:
        found = (f"{type(error).__name__}: {error}",)
    except EffaceError as error:
        needed = f"the detectors could not run on this model, so pictures alone decide: {error}"
    return Control(
        name="edit", concept="", passed=not found, estimate=None, requirement=needed, details=found
    )


def _seen(
    scorer: Scorer, asked: Asked, samples: Sequence[Sample], sources: Sequence[Source]
) -> list[Estimate] | None:
    """Gives how often the judge sees what prompts ask for, before and after."""
    metric = Presence(asked.judge)
    measure = asked.instruments.measure(metric)
    shown = [one for one in samples if metric.applies(one)]
    prompts = [one.prompt for one in shown]
    found = []
    for source in sources:
        scorer.fill(measure, metric.scores, source, shown)
        scores = scorer.values(measure, source, shown)
        if not scores or any(map(math.isnan, scores)):
            return None
        hits = [float(score >= asked.judge.card.threshold) for score in scores]
        found.append(rate(hits, prompts))
    return found


def _likeness(
    scorer: Scorer, samples: Sequence[Sample], sources: Sequence[Source]
) -> Likeness | None:
    """Compares pictures batch by batch; None when there is none."""
    if not samples:
        return None
    small: list[Tensor] = []
    rough: list[float] = []
    for source in sources:
        parts = [
            (thumbnails(images), roughness(images) * len(batch))
            for batch, images in scorer.store.batches(source, samples)
        ]
        small.append(torch.cat([thumbnail for thumbnail, _ in parts]))
        rough.append(sum(weighted for _, weighted in parts) / len(samples))
    return likeness((small[0], small[1]), (rough[0], rough[1]))


def _request(samples: Sequence[Sample]) -> ErasureRequest:
    """Words what a suite erases and keeps, for the detectors."""
    erased = _worded(samples, "erased")
    kept = _worded(samples, "kept", "general")
    return ErasureRequest(
        erasures=tuple(Erasure(concept=one) for one in erased.values()),
        keep=tuple(one for name, one in kept.items() if name not in erased),
    )


def _worded(samples: Sequence[Sample], *roles: Role) -> dict[str, Concept]:
    """Collects the prompts of every concept, and prompts without one as their own concepts."""
    prompts: dict[str, list[str]] = {}
    for one in in_role(samples, *roles):
        name = one.subject or one.prompt
        if one.prompt.strip():
            prompts.setdefault(name.casefold().strip(), []).append(one.prompt)
    return {
        name: Concept(name=name, prompts=tuple(dict.fromkeys(each)))
        for name, each in prompts.items()
    }
