"""One call from words to a checked result: build the method, run it, inspect what it did."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from efface import registry
from efface.concepts import Concept, ConceptKind, ErasureRequest, request
from efface.contracts import Eraser, Monitor, silent
from efface.deltas.application import parents_of
from efface.deltas.provenance import sketch
from efface.deltas.recording import model_name, model_place
from efface.deltas.results import ErasureResult
from efface.errors import BadRequest
from efface.hosts.components import parameters
from efface.hosts.families import FAMILIES, layout
from efface.hosts.states import check_erasable
from efface.picture_files import by_content
from efface.randomness import as_usual, whole
from efface.registry import stage_names
from efface.runs.checks import check_family, finish
from efface.runs.given import check_readers, pictured
from efface.runs.gradient_eraser import GradientEraser
from efface.runs.recipe import EraseRecipe, StagesRecipe, usual_preset
from efface.runs.stages import run_stages, stage_workspaces
from efface.runs.words import understood
from efface.runs.workspace import Workspace
from efface.text.keep_sets import remembering
from efface.training.checkpoints import Checkpointing, identity_of
from efface.training.session import Session
from efface.training.settings import Training

__all__ = ["check", "erase", "perform", "scaled_run"]

Chosen: TypeAlias = str | Eraser[Any]
"""A method by its name, or built with its settings."""


@as_usual()
def erase(
    model: Any,
    concepts: str | Concept | Sequence[str | Concept] | ErasureRequest,
    *,
    method: Chosen | Sequence[Chosen] = "rece",
    keep: str | Concept | Sequence[str | Concept] = (),
    anchor: str | Concept | None = None,
    kind: ConceptKind = "object",
    seed: int = 0,
    workspace: Workspace | None = None,
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
        keep: what must stay. Left out, a bundled model's own keep set is taken; it also fills in
            the synonyms and wordings of the words it knows.
        anchor: what prompts give instead; left out, the empty prompt.
        kind: the kind of concepts given as plain names.
        seed: of every draw that the method makes.
        workspace: folders that outlive the call: a cache of keep sets, checkpoints.
        monitor: called once per step, while what was trained so far is in force.
        **settings: settings of the method, by name, and ``preset`` for named ones that they replace
            (left out, a bundled model's own preset is taken, else the method's defaults). Of
            methods in turn a mapping each, under the method's name: the second esd is ``esd-2``.

    Raises:
        BadRequest: an unknown name or setting, or a request that makes no sense.
        BadModel: weights are packed, offloaded, fused or have others beside them.
        NothingChanged: the result does nothing to the concept.
        ModelCollapsed: the result wrecks the model.
    """
    check_erasable(model)
    place = model_place(model)
    base = _Base(place, understood(_request(concepts, keep, anchor, kind), place), whole(seed))
    pairs = base.parts(_listed(method), settings.pop("preset", None), settings)
    parts, methods = [part for part, _ in pairs], [built for _, built in pairs]
    recipe = parts[0] if len(parts) == 1 else StagesRecipe.joined(parts)
    return _run(recipe, methods, model, Workspace.of(workspace), monitor)


@as_usual()
def perform(
    recipe: EraseRecipe | StagesRecipe,
    model: Any,
    *,
    workspace: Workspace | None = None,
    monitor: Monitor = silent,
) -> ErasureResult:
    """Does what a recipe says; see `erase`."""
    check_erasable(model)
    methods = [part.build() for part in _parts(recipe)]
    return _run(recipe, methods, model, Workspace.of(workspace), monitor)


def check(
    recipe: EraseRecipe | StagesRecipe,
    workspace: Workspace,
    *,
    methods: Sequence[Eraser[Any]] = (),
) -> None:
    """Refuses what can be seen to fail before a model is loaded.

    Args:
        recipe: what is wanted.
        workspace: folders that are given.
        methods: the recipe's, if they are built already.

    Raises:
        BadRequest, MissingInput: a setting is out of range, the request lacks what a method needs,
            a method is of models that read pictures, or there is nothing to resume.
    """
    _check_scale(recipe.delta_scale)
    whole(recipe.seed)
    methods = methods or [part.build() for part in _parts(recipe)]
    check_readers(recipe, methods)
    for method in methods:
        if not method.families & FAMILIES.keys() and _draws(recipe.model):
            raise BadRequest(
                f"{method.name} edits models that read pictures, and {recipe.model} draws them; "
                "efface list methods says which method edits what"
            )
        if isinstance(method, GradientEraser):
            method.check_request(recipe.request)
    if workspace.cache is not None and Path(workspace.cache).is_file():
        raise BadRequest(f"the cache {workspace.cache} is a file; name a folder for it")
    if len(methods) > 1:
        stage_workspaces(workspace, len(methods))
    elif workspace.resume:
        _checkpoint_folder(methods[0], workspace)


def _draws(model: str) -> bool:
    """Whether a model is known to draw pictures before it is loaded."""
    return model in registry.BUNDLED or (Path(model) / "model_index.json").is_file()


@dataclass(frozen=True)
class _Base:
    """What all stages of a run share."""

    model: str
    request: ErasureRequest
    seed: int

    def parts(
        self, methods: Sequence[Chosen], preset: str | None, settings: Mapping[str, Any]
    ) -> list[tuple[EraseRecipe, Eraser[Any]]]:
        """Gives every stage's recipe and method; several have their settings under their names."""
        if len(methods) == 1:
            return [self._part(methods[0], preset, settings)]
        names = stage_names([one if isinstance(one, str) else one.name for one in methods])
        stages = dict(zip(names, methods, strict=True))
        named = [name for name, stage in stages.items() if isinstance(stage, str)]
        for name, given in settings.items():
            if name not in named or not isinstance(given, Mapping):
                raise BadRequest(
                    "several methods in turn do not share settings; give each its own, as in "
                    f"{named[0] if named else 'uce'}={{...}}, not {name}={given}"
                )
        made = []
        for name, stage in stages.items():
            given = dict(settings.get(name, {}))
            made.append(self._part(stage, given.pop("preset", preset), given))
        return made

    def _part(
        self, method: Chosen, preset: str | None, settings: Mapping[str, Any]
    ) -> tuple[EraseRecipe, Eraser[Any]]:
        both: dict[str, Any] = {"model": self.model, "request": self.request, "seed": self.seed}
        if not isinstance(method, str):
            if settings or preset:
                raise BadRequest("a method object carries its settings; give them there")
            return EraseRecipe.of(method, **both), method
        used = preset or usual_preset(self.model, method)
        part = EraseRecipe(**both, method=method, preset=used, settings=dict(settings))
        return part, part.build()


def _run(
    recipe: EraseRecipe | StagesRecipe,
    methods: Sequence[Eraser[Any]],
    model: Any,
    workspace: Workspace,
    monitor: Monitor,
) -> ErasureResult:
    """Runs methods in their order and finishes what they give together."""
    check_readers(recipe, methods)
    recipe = pictured(recipe)
    if isinstance(recipe, StagesRecipe):
        for method in methods:
            if isinstance(method, GradientEraser):
                method.check_request(recipe.request)
        places = stage_workspaces(workspace, len(methods))
        each = zip(_parts(recipe), methods, places, strict=True)
        stages = [partial(_stage, part, one, model, place, monitor) for part, one, place in each]
        made = finish(model, run_stages(model, stages), recipe)
    else:
        made = _stage(recipe, methods[0], model, workspace, monitor)
    return made if recipe.delta_scale == 1.0 else scaled_run(model, made, recipe)


def scaled_run(
    model: Any, result: ErasureResult, recipe: EraseRecipe | StagesRecipe
) -> ErasureResult:
    """Takes as much of a whole delta as a recipe says, and inspects what that does.

    Raises:
        BadRequest: the scale is not finite, or none of the delta is left.
        NothingChanged, ModelCollapsed: see `efface.runs.checks.inspect`.
    """
    _check_scale(recipe.delta_scale)
    return finish(model, replace(result, delta=result.delta.scaled(recipe.delta_scale)), recipe)


def _check_scale(scale: float) -> None:
    if not math.isfinite(scale) or scale == 0.0:
        raise BadRequest(f"the delta's scale is {scale}; give a number other than 0, such as 0.75")


def _stage(
    recipe: EraseRecipe, method: Eraser[Any], model: Any, workspace: Workspace, monitor: Monitor
) -> ErasureResult:
    """Runs one method and finishes what it gives."""
    check_family(method.name, method.families, layout(model))
    generator = torch.Generator().manual_seed(recipe.seed)
    kept = _checkpointing(model, recipe, method, workspace)
    session = replace(Session.of(monitor), checkpointing=kept)
    with remembering(workspace.cache) as known:
        result = method.erase(model, recipe.request, generator=generator, monitor=session)
    facts = {} if known is None else {"keep_cache": known.told()}
    return finish(model, result, recipe, **facts)


def _parts(recipe: EraseRecipe | StagesRecipe) -> list[EraseRecipe]:
    return [*recipe.parts.values()] if isinstance(recipe, StagesRecipe) else [recipe]


def _listed(method: Any) -> list[Chosen]:
    """Lists methods that run in turn.

    Raises:
        BadRequest: there is none, or one that is neither a name nor a method.
    """
    if isinstance(method, str):
        return [*method.split("+")]
    listed = [*method] if isinstance(method, list | tuple) else [method]
    for one in listed or [None]:
        if not isinstance(one, str | Eraser):
            raise BadRequest(
                f"{one!r:.40} is no method; give a name of efface.list_methods(), such as "
                "method='uce', or a method object"
            )
    return listed


def _checkpoint_folder(method: Eraser[Any], workspace: Workspace) -> Path | None:
    """Says where training keeps its state, if that is wanted.

    Raises:
        BadRequest: to resume, a folder and a method that trains are needed.
    """
    if workspace.checkpoint is None:
        if workspace.resume:
            raise BadRequest("resume needs the folder of the checkpoint: Workspace(checkpoint=...)")
        return None
    if not isinstance(method, Training):
        if workspace.resume:
            raise BadRequest(f"{method.name} does not train, so there is nothing to resume")
        return None
    return Path(workspace.checkpoint)


def _checkpointing(
    model: Any, recipe: EraseRecipe, method: Eraser[Any], workspace: Workspace
) -> Checkpointing | None:
    folder = _checkpoint_folder(method, workspace)
    if folder is None:
        return None
    wanted = by_content(recipe.request)
    identity = identity_of(method.name, _base(model), wanted, method, recipe.seed)
    return Checkpointing(folder, identity, resume=workspace.resume)


def _base(model: Any) -> str:
    """Names a base by its folder, by values of its weights, and by the deltas in force on it."""
    digest = hashlib.sha256()
    for key, weight in parameters(model):
        digest.update(repr((key, sketch(weight))).encode())
    return " then ".join((f"{model_name(model)} {digest.hexdigest()[:16]}", *parents_of(model)))


def _request(
    concepts: str | Concept | Sequence[str | Concept] | ErasureRequest,
    keep: str | Concept | Sequence[str | Concept],
    anchor: str | Concept | None,
    kind: ConceptKind,
) -> ErasureRequest:
    if not isinstance(concepts, ErasureRequest):
        return request(concepts, anchor=anchor, keep=keep, kind=kind)
    if keep or anchor:
        raise BadRequest("the request already says what to keep and where to steer; say it there")
    return concepts
