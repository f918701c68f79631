"""One call from words to a checked result: build the method, run it, inspect what it did."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from efface.concepts import Concept, ConceptKind, ErasureRequest, request
from efface.contracts import Eraser, Monitor, silent
from efface.deltas.application import parents_of
from efface.deltas.provenance import sketch
from efface.deltas.recording import model_name
from efface.deltas.results import ErasureResult
from efface.errors import BadRequest
from efface.hosts.components import parameters
from efface.hosts.loading import BUNDLED, bundled, measured_preset
from efface.registry import build, load, stage_names
from efface.runs.checks import inspect
from efface.runs.stages import in_turn, places
from efface.text.keep_sets import remembering
from efface.training.checkpoints import Checkpointing, checkpointing, identity_of
from efface.training.settings import Training

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
    checkpoint: Path | str | None = None,
    resume: bool = False,
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
        checkpoint: folder in which methods that train keep the newest state until they are done;
            a run that was interrupted goes on from there to the same bits.
        resume: start from that checkpoint.
        monitor: called once per step, while what was trained so far is in force.
        **settings: single settings of the method, over the preset; of methods in turn a mapping
            each, its preset among them, under the method's name: the second esd is ``esd-2``.

    Raises:
        BadRequest: an unknown name or setting, or a request that makes no sense.
        NothingChanged: the result does nothing to the concept.
        ModelCollapsed: the result wrecks the model.
    """
    wanted = _understood(model, _request(concepts, keep, anchor, kind))
    stages = _stages(method)
    if len(stages) > 1:
        ready = _with_settings(model, stages, preset, settings)
        each = partial(erase, model, wanted, seed=seed, cache=cache, monitor=monitor)
        return in_turn(model, wanted, ready, each, places(checkpoint, len(ready), resume=resume))
    chosen = _method(model, stages[0], preset, settings)
    generator = torch.Generator().manual_seed(seed)
    kept = _checkpointing(model, wanted, chosen, seed, checkpoint, resume=resume)
    with remembering(cache) as known, checkpointing(kept):
        result = chosen.erase(model, wanted, generator=generator, monitor=monitor)
    own = preset or _own_preset(model, stages[0])
    told = {} if known is None else {"keep_cache": known.told()}
    return _credited(model, result, wanted, (own, settings), told)


def _credited(
    model: Any,
    result: ErasureResult,
    wanted: ErasureRequest,
    given: tuple[str | None, Mapping[str, Any]],
    told: Mapping[str, Any],
) -> ErasureResult:
    """Writes preset and given settings into the provenance, and checks what the delta does."""
    preset, settings = given
    provenance = replace(
        result.delta.provenance, settings_given=tuple(sorted(settings)), preset=preset
    )
    delta = replace(result.delta, provenance=provenance)
    seen = inspect(model, delta, wanted)
    return replace(result, delta=delta, diagnostics={**result.diagnostics, **seen, **told})


def _stages(
    method: str | Eraser[Any] | Sequence[str | Eraser[Any]],
) -> list[str | Eraser[Any]]:
    """Lists methods that run in turn."""
    if isinstance(method, str):
        return [*method.split("+")]
    return [*method] if isinstance(method, Sequence) else [method]


def _with_settings(
    model: Any, stages: Sequence[str | Eraser[Any]], preset: str | None, settings: dict[str, Any]
) -> list[Eraser[Any]]:
    """Builds every stage, with the settings under its name; a preset among them is its own."""
    names = stage_names([stage if isinstance(stage, str) else _name(stage) for stage in stages])
    each = dict(zip(names, stages, strict=True))
    named = [name for name, stage in each.items() if isinstance(stage, str)]
    for name, given in settings.items():
        if name not in named or not isinstance(given, Mapping):
            raise BadRequest(
                "several methods in turn do not share settings; give each its own, as in "
                f"{named[0] if named else 'uce'}={{...}}, not {name}={given}"
            )
    built = []
    for name, stage in each.items():
        given = dict(settings.get(name, {}))
        built.append(_method(model, stage, given.pop("preset", preset), given))
    return built


def _name(method: Eraser[Any]) -> str:
    return method.name


def _checkpointing(
    model: Any,
    wanted: ErasureRequest,
    method: Eraser[Any],
    seed: int,
    folder: Path | str | None,
    *,
    resume: bool,
) -> Checkpointing | None:
    """Says where training keeps its state, if that is wanted.

    Raises:
        BadRequest: to resume, a folder is needed.
    """
    if folder is None:
        if resume:
            raise BadRequest("resume needs the folder of the checkpoint: checkpoint=...")
        return None
    if not isinstance(method, Training):
        if resume:
            raise BadRequest(f"{_name(method)} does not train, so there is nothing to resume")
        return None
    identity = identity_of(method.name, _base(model), wanted, method, seed)
    return Checkpointing(Path(folder), identity, resume=resume)


def _base(model: Any) -> str:
    """Names a base by its folder, by values of its weights, and by the deltas in force on it."""
    digest = hashlib.sha256()
    for key, weight in parameters(model):
        digest.update(repr((key, sketch(weight))).encode())
    return " then ".join((f"{model_name(model)} {digest.hexdigest()[:16]}", *parents_of(model)))


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
    """Finds the preset that was measured on a bundled model."""
    if not isinstance(method, str):
        return None
    preset = measured_preset(model_name(model))
    return preset if preset in load("methods", method).presets() else None


def _understood(model: Any, wanted: ErasureRequest) -> ErasureRequest:
    """Lets a bundled model fill in what it knows: synonyms, wordings and what to keep."""
    name = model_name(model)
    if name not in BUNDLED:
        return wanted
    filled: ErasureRequest = bundled(name).understood(wanted)
    return filled
