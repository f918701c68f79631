"""``efface plan METHOD``: what an erasure from a folder will touch and take, before any work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from efface import registry
from efface.cli.choosing import Choice, Choosing, choose, overview
from efface.errors import BadRequest
from efface.registry import stage_names
from efface.workbench.models import folder_of_model

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.concepts import ErasureRequest
    from efface.contracts import Eraser
    from efface.hosts.survey import FolderSurvey
    from efface.runs.gradient_eraser import GradientEraser
    from efface.runs.planning import WorkPlan
    from efface.runs.training_plan import TrainingPlan

__all__ = ["Plan", "run"]


@dataclass(frozen=True, kw_only=True)
class Plan(Choosing):
    """What would be erased, and from which model."""


def run(arguments: list[str], output: Output) -> int:
    """Prints the plan; reads configs and file headers only."""
    if not arguments or arguments[0].startswith("-"):
        return overview("plan", arguments, output)
    named, *flags = arguments
    options, choice = choose(named, flags, Plan)
    request = options.request()
    if registry.reads_pictures(options.model):
        return _forgetting(options.model, choice, request, output)
    from efface.hosts.survey import survey
    from efface.runs.checks import check_family
    from efface.runs.given import check_readers, pictured

    found = survey(folder_of_model(options.model))
    stages: dict[str, Any] = {choice.name: choice.method}
    if isinstance(choice.method, tuple):
        stages = dict(zip(stage_names(choice.name.split("+")), choice.method, strict=True))
    for name, method in stages.items():
        check_family(name, method.families, found.family)
    recipe = pictured(choice.recipe(options.model, request, 0), options.images_hash)
    check_readers(recipe, stages.values())
    plans, lines = {}, []
    for name, method in stages.items():
        plans[name], told = _stage(found, method, request)
        lines += [f"method    {name}", *told]
    output.say(
        f"model     {found.folder}: {found.pipeline}, family {found.family}",
        *lines,
        *(f"pictures  {place}, of hash {each}" for place, each in recipe.pictures.items()),
        f"copy      {next(iter(plans.values())).copy_bytes / 1e9:.2f} GB for an edited model",
        *(f"licence   {line}" for line in found.licence),
    )
    every = {name: asdict(plan) for name, plan in plans.items()}
    output.result(
        {
            "model": options.model,
            "pipeline": found.pipeline,
            "family": found.family,
            "method": choice.name,
            "preset": choice.preset,
            "licence": found.licence,
            "pictures": recipe.pictures,
            **every.get(choice.name, {"stages": every}),
        }
    )
    return 0


def _forgetting(model: str, choice: Choice, request: ErasureRequest, output: Output) -> int:
    """Plans a method on a model that reads pictures.

    Raises:
        BadRequest: methods in turn; see `plan_forgetting`.
    """
    from efface.runs.forgetting_plan import plan_forgetting

    if isinstance(choice.method, tuple):
        raise BadRequest(f"{choice.name} is several methods; plan each by itself")
    plan = plan_forgetting(model, choice.name, choice.method, request)
    added = f"; {plan.added:,} values are added beside them" if plan.added else ""
    output.say(
        f"model     {model}: {plan.network}, a {plan.family}",
        f"method    {choice.name}",
        f"touches   {plan.parameters:,} values in {plan.tensors} tensors, {plan.share:.1%} of it",
        f"trains    {_length(choice.method)}, batch {choice.method.batch}{added}",
        f"disk      at most {plan.delta_bytes / 1e6:.1f} MB for the delta",
        f"copy      {plan.copy_bytes / 1e6:.1f} MB for an edited model",
    )
    told = {"model": model, "method": choice.name, "preset": choice.preset}
    output.result({**told, **asdict(plan)})
    return 0


def _length(method: Any) -> str:
    """Says how long a method trains."""
    return f"{method.epochs:g} passes" if method.epochs else f"{method.steps} steps"


def _stage(
    found: FolderSurvey, method: Eraser[Any], request: ErasureRequest
) -> tuple[WorkPlan | TrainingPlan, list[str]]:
    """Plans one method, and says it in lines."""
    from efface.runs.gradient_eraser import GradientEraser
    from efface.runs.planning import plan_work
    from efface.runs.training_plan import plan_training

    plan: WorkPlan | TrainingPlan
    if isinstance(method, GradientEraser):
        told = _training(method, plan := plan_training(found, method, request))
    else:
        told = _closed(found, plan := plan_work(found, method, request))
    part = getattr(plan, "part", found.denoiser)
    touched = (
        f"touches   {plan.parameters:,} values in {plan.tensors} tensors, "
        f"{plan.share:.1%} of the {part}"
    )
    return plan, [
        touched,
        *told,
        f"disk      at most {plan.delta_bytes / 1e6:.1f} MB for the delta",
    ]


def _closed(found: FolderSurvey, plan: WorkPlan) -> list[str]:
    encoders = ", ".join(f"{one.name} ({one.width} wide)" for one in found.encoders)
    return [
        f"reads     {plan.prompts} prompts through {encoders}: {plan.encoder_passes} passes",
        f"time      about {plan.seconds:.0f} s with one thread",
        f"memory    about {plan.peak_bytes / 1e9:.1f} GB; the {found.denoiser} is not loaded",
    ]


def _training(method: GradientEraser, plan: TrainingPlan) -> list[str]:
    kept = method.keep_weight > 0
    beside = f" and {method.keep_trajectories} of kept prompts" if kept else ""
    added = f"; {plan.added:,} values are added beside them" if plan.added else ""
    return [
        f"trains    {method.steps} steps, batch {method.batch}{added}",
        f"samples   {method.trajectories} trajectories{beside}, {method.sampling_steps} steps each",
        f"memory    {(plan.model_bytes + plan.training_bytes) / 1e9:.1f} GB for weights, gradients "
        "and averages in float32; what a step computes comes on top (--recompute needs less)",
    ]
