"""``efface plan METHOD``: what an erasure from a folder will touch and take, before any work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from efface.cli.choosing import Choosing, choose, overview
from efface.cli.hosts import Wanted, folder_of_model, request_for
from efface.errors import BadRequest

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.core.planning import WorkPlan
    from efface.models.survey import FolderSurvey

__all__ = ["Plan", "run"]


@dataclass(frozen=True, kw_only=True)
class Plan(Choosing):
    """What would be erased, and from which model."""


def run(arguments: list[str], output: Output) -> int:
    """Prints the plan; reads configs and file headers only."""
    if not arguments or arguments[0].startswith("-"):
        return overview("plan", arguments, output)
    method, *flags = arguments
    options, choice = choose(method, flags, Plan)
    method = choice.name
    if isinstance(choice.method, tuple):
        raise BadRequest(f"plan the methods of {method} one at a time; each works on the base")
    wanted = Wanted(
        concepts=options.concept, kind=options.kind, anchor=options.anchor, keep=options.keep
    )
    request = request_for(options.model, wanted)
    from efface.core.branches import refuse_family
    from efface.core.planning import plan_work
    from efface.models.survey import survey

    found = survey(folder_of_model(options.model))
    refuse_family(method, choice.method.families, found.family)
    plan = plan_work(found, choice.method, request)
    output.say(*_lines(method, found, plan))
    output.result(
        {
            "model": options.model,
            "pipeline": found.pipeline,
            "family": found.family,
            "method": method,
            "preset": choice.preset,
            "licence": found.licence,
            **asdict(plan),
        }
    )
    return 0


def _lines(method: str, found: FolderSurvey, plan: WorkPlan) -> list[Any]:
    encoders = ", ".join(f"{one.name} ({one.width} wide)" for one in found.encoders)
    return [
        f"model     {found.folder}: {found.pipeline}, family {found.family}",
        f"method    {method}",
        f"touches   {plan.parameters:,} values in {plan.tensors} tensors, "
        f"{plan.share:.1%} of the {found.denoiser}",
        f"reads     {plan.prompts} prompts through {encoders}: {plan.encoder_passes} passes",
        f"time      about {plan.seconds:.0f} s with one thread",
        f"memory    about {plan.peak_bytes / 1e9:.1f} GB; the {found.denoiser} is not loaded",
        f"disk      at most {plan.delta_bytes / 1e6:.1f} MB for the delta, "
        f"{plan.copy_bytes / 1e9:.2f} GB for an edited copy of the model",
        *(f"licence   {line}" for line in found.licence),
    ]
