"""One call from words to a checked result: build the method, run it, inspect what it did."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from efface.concepts import Concept, ConceptKind, ErasureRequest, request
from efface.contracts import Eraser, Monitor, silent
from efface.core.checks import inspect
from efface.core.composition import compose
from efface.core.keep_sets import remembering
from efface.core.recording import model_name
from efface.core.results import ErasureResult
from efface.errors import BadRequest
from efface.models.loading import BUNDLED, bundled
from efface.registry import build, load

__all__ = ["erase"]


def erase(  # noqa: PLR0913 - the one call that everything can be said in
    model: Any,
    concepts: str | Concept | Sequence[str | Concept] | ErasureRequest,
    *,
    method: str | Eraser[Any] | Sequence[str | Eraser[Any]] = "rece",
    preset: str | None = None,
    keep: Sequence[str | Concept] = (),
    anchor: str | Concept | None = None,
    kind: ConceptKind = "object",
    seed: int = 0,
    cache: Path | str | None = None,
    monitor: Monitor = silent,
    **settings: Any,
) -> ErasureResult:
    """Erases concepts and returns the change; the model stays as it was.

    Args:
        model: a pipeline from `load`, or any diffusers pipeline with the same parts.
        concepts: what goes, as names, concepts, or a whole request.
        method: a name from ``list_methods()``, or a method object with its settings. Several, as a
            sequence or as ``"uce+esd"``, run in turn, each on the model that the earlier ones gave,
            and make one delta.
        preset: settings by name. Left out, a bundled model's own preset is taken, else the method's
            defaults.
        keep: what must stay. Left out, a bundled model's own keep set is taken; it also fills in
            the synonyms and wordings of the words it knows.
        anchor: what prompts give instead; left out, the empty prompt.
        kind: the kind of concepts given as plain names.
        seed: of every draw that the method makes.
        cache: folder that remembers keep sets between erasures: with the same text encoder, the
            next one does not encode those prompts again. The delta is the same bit for bit.
        monitor: called once per step.
        **settings: single settings of the method, over the preset.

    Raises:
        BadRequest: an unknown name or setting, or a request that makes no sense.
        MissingInput: the method needs something that the request does not hold.
        NothingChanged: the result does nothing to the concept.
        ModelCollapsed: the result wrecks the model.
    """
    wanted = _understood(model, _request(concepts, keep, anchor, kind))
    stages = _stages(method)
    if len(stages) > 1:
        if settings or preset:
            raise BadRequest(
                "several methods in turn do not share settings; give method objects that carry them"
            )
        return _in_turn(model, wanted, stages, seed, cache, monitor)
    chosen = _method(model, stages[0], preset, settings)
    generator = torch.Generator().manual_seed(seed)
    with remembering(cache) as known:
        result = chosen.erase(model, wanted, generator=generator, monitor=monitor)
    used = preset or _own_preset(model, stages[0])
    provenance = replace(
        result.delta.provenance, settings_given=tuple(sorted(settings)), preset=used
    )
    delta = replace(result.delta, provenance=provenance)
    seen = inspect(model, delta, wanted)
    told = {} if known is None else {"keep_cache": known.told()}
    return replace(result, delta=delta, diagnostics={**result.diagnostics, **seen, **told})


def _stages(
    method: str | Eraser[Any] | Sequence[str | Eraser[Any]],
) -> list[str | Eraser[Any]]:
    """Lists methods that run in turn."""
    if isinstance(method, str):
        return [*method.split("+")]
    return [*method] if isinstance(method, Sequence) else [method]


def _in_turn(
    model: Any,
    wanted: ErasureRequest,
    stages: Sequence[str | Eraser[Any]],
    seed: int,
    cache: Path | str | None,
    monitor: Monitor,
) -> ErasureResult:
    """Runs every stage on the model with the earlier ones applied, and composes their deltas."""
    results: list[ErasureResult] = []
    with ExitStack() as applied:
        for stage in stages:
            results.append(
                erase(model, wanted, method=stage, seed=seed, cache=cache, monitor=monitor)
            )
            applied.enter_context(results[-1].delta.apply(model))
    delta = compose([result.delta for result in results])
    provenance = replace(
        delta.provenance,
        method="+".join(result.delta.provenance.method for result in results),
        settings={
            result.delta.provenance.method: dict(result.delta.provenance.settings)
            for result in results
        },
        request=results[0].delta.provenance.request,
    )
    delta = replace(delta, provenance=provenance)
    last = results[-1]
    evaluations = sum(r.diagnostics.get("network_evaluations", 0) for r in results)
    told = {r.delta.provenance.method: dict(r.diagnostics) for r in results}
    return ErasureResult(
        delta=delta,
        curves=last.curves,
        seconds=sum(result.seconds for result in results),
        peak_bytes=max(result.peak_bytes for result in results),
        diagnostics={
            **inspect(model, delta, wanted),
            "network_evaluations": evaluations,
            "stages": told,
        },
    )


def _request(
    concepts: str | Concept | Sequence[str | Concept] | ErasureRequest,
    keep: Sequence[str | Concept],
    anchor: str | Concept | None,
    kind: ConceptKind,
) -> ErasureRequest:
    if not isinstance(concepts, ErasureRequest):
        return request(concepts, anchor=anchor, keep=keep, kind=kind)
    if keep or anchor:
        raise BadRequest("the request already says what to keep and where to steer; say it there")
    return concepts


def _method(
    model: Any, method: str | Eraser[Any], preset: str | None, settings: dict[str, Any]
) -> Eraser[Any]:
    if not isinstance(method, str):
        if settings or preset:
            raise BadRequest("a method object carries its settings; give them there")
        return method
    used = preset or _own_preset(model, method)
    chosen = build("methods", method, preset=used, **settings)
    if not isinstance(chosen, Eraser):
        raise BadRequest(f"{method} does not erase by changing weights; choose an eraser")
    return chosen


def _own_preset(model: Any, method: str | Eraser[Any]) -> str | None:
    """Finds the preset named after a bundled model."""
    name = model_name(model)
    if not isinstance(method, str) or name not in BUNDLED:
        return None
    return name if name in load("methods", method).presets() else None


def _understood(model: Any, wanted: ErasureRequest) -> ErasureRequest:
    """Lets a bundled model fill in what it knows: synonyms, wordings and what to keep."""
    name = model_name(model)
    if name not in BUNDLED:
        return wanted
    filled: ErasureRequest = bundled(name).understood(wanted)
    return filled
