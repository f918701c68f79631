"""``efface evaluate RUN``: was it erased, and what else changed?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface.cli import debias, guiding
from efface.cli.asking import Placed
from efface.cli.shell import Repeated, parse
from efface.evaluation.limits import Limits
from efface.workbench import lineage, measuring, recognising, runs
from efface.workbench.folder import locked
from efface.workbench.models import load_host

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Evaluate", "run"]


@dataclass(frozen=True, kw_only=True)
class Evaluate(Limits, guiding.Guiding, Placed):
    """Which run to measure, and with what."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    suite: str | None = None
    """What to draw; by default "emoji" for the bundled model, "basic" for others."""
    size: str = "standard"
    """How many pictures: "smoke" for a quick look, "short", or "standard" for numbers; "implicit"
    asks a bundled model by every description of a concept."""
    judge: str | None = None
    """Who decides what is in a picture: a judge by name, or a folder with a CLIP model. By default
    the bundled model's own; where none knows the concept, a few pictures are drawn that nobody
    judges, and the verdict is "not measured"."""
    judge_folder: Path | None = None
    """Model of a judge that is named and not bundled."""
    judge_settings: Repeated = ()
    """Another setting of that judge, as name=value; repeat for several."""
    clip: Path | None = None
    """CLIP model for CLIP scores; by default the judge's, or the bundled one."""
    metrics: Repeated = ()
    """What to measure instead of the suite's metrics; repeat for several."""
    pictures: Path | None = None
    """Where drawn pictures are kept for all runs; by default .pictures beside the run."""
    model: str | None = None
    """Another copy of the base model; by default the model that the run names."""
    test_data: str | None = None
    """Held-out pictures to measure with, for models that read pictures; by default a bundled
    model's own."""
    details: bool = False
    """Print every number instead of the five lines that matter; the report has them always."""
    overwrite: bool = False
    """Replace a measurement of more pictures, or one that says more, with its report and card."""


def run(arguments: list[str], output: Output) -> int:
    """Measures a run; exit code 1 means an invalid verdict, or an erasure that failed.

    Where nobody judged the pictures the code is 0, unless they or the detectors show a wreck.
    """
    common, guides = guiding.guides_of(arguments)
    options = parse(Evaluate, common, prog="efface evaluate", description="Measures a run.")
    recipe = runs.recipe_of(options.source)
    debias.refuse_debiased(recipe, options.source)
    recognising.check_flags(recipe.model, options)
    judge, folder_of_judge = measuring.named_judge(options.judge)
    plan = measuring.Plan(
        suite=options.suite,
        size=options.size,
        judge=judge,
        judge_folder=options.judge_folder or folder_of_judge,
        judge_settings=options.judge_settings,
        clip=options.clip,
        metrics=options.metrics,
        pictures=options.pictures,
        limits=measuring.limits_of(options),
        details=options.details,
        test_data=options.test_data,
        overwrite=options.overwrite,
        guides=tuple(guides),
    )
    output.after_interrupt = "drawn pictures are kept; run the same command again to go on"
    with locked(runs.folder_of(options.source)) as folder:
        deltas = lineage.whole(runs.open_run(folder.path))
        model = options.model or recipe.model
        placed = options.or_recorded(recipe, model, config_only=True)
        pipe = load_host(model, output, placed)
        lineage.check_fits(deltas, pipe)
        return measuring.measure(folder, pipe, plan, output)
