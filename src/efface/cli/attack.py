"""``efface attack RUN``: how hard is the erased concept to bring back?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface import registry
from efface.cli.asking import Placed
from efface.cli.debias import refuse_debiased
from efface.cli.shell import Repeated, parse
from efface.errors import BadRequest
from efface.workbench import lineage, runs
from efface.workbench.attacking import Aim, assaults, attacked_with, renew_reports
from efface.workbench.folder import locked
from efface.workbench.models import load_host, refuse_readers

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.evaluation.revival import AttackRecord

__all__ = ["AttackOptions", "run"]

EVERYTHING = "all"


@dataclass(frozen=True, kw_only=True)
class AttackOptions(Placed):
    """Which run to attack, with what, and what each trial may spend."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    with_: Annotated[Repeated, tyro.conf.arg(name="with")] = ()
    """An attack by name (efface list attacks), or "all"; repeat for several."""
    budget: int = 2000
    """Network evaluations that each trial may take, drawing included."""
    pictures: int = 12
    """Pictures that each trial may draw."""
    trials: int = 8
    """Prompts and seeds that are attacked, each by itself."""
    seed: int = 0
    """Of all draws of the attacks."""
    suite: str | None = None
    """Whose prompts are attacked; by default "emoji" for the bundled model, "basic" for others."""
    judge: str | None = None
    """Who decides whether the concept is back: a judge by name, or a folder with a CLIP model; by
    default the suite's."""
    judge_folder: Path | None = None
    """Model of a judge that is not bundled."""
    judge_settings: Repeated = ()
    """Another setting of that judge, as name=value; repeat for several."""
    model: str | None = None
    """Another copy of the base model; by default the model that the run names."""
    overwrite: bool = False
    """Attack again where the run holds the same attack already."""


def run(arguments: list[str], output: Output) -> int:
    """Attacks a run; exit code 1 says that an attack could not be measured."""
    options = parse(
        AttackOptions,
        arguments,
        prog="efface attack",
        description="Tries to bring the erased concept of a run back.",
    )
    names = _chosen(options)
    aim = Aim(**{each.name: getattr(options, each.name) for each in fields(Aim)})
    output.after_interrupt = "finished attacks are kept; run the same command again to go on"
    with locked(runs.folder_of(options.source)) as folder:
        recipe = runs.recipe_of(options.source)
        refuse_debiased(recipe, options.source)
        refuse_readers(options.model or recipe.model, "attack")
        model = options.model or recipe.model
        placed = options.or_recorded(recipe, model, config_only=True)
        *parents, delta = lineage.whole(runs.open_run(folder.path))
        pipe = load_host(model, output, placed)
        lineage.check_fits((*parents, delta), pipe)
        with lineage.on_top_of(parents, pipe):
            records = [
                record
                for assault in assaults(pipe, aim, recipe, names[0])
                for record in attacked_with(
                    folder, assault, names, output, overwrite=options.overwrite
                )
            ]
        renew_reports(folder, output)
    return _tell(folder.path, records, output)


def _tell(folder: Path, records: Sequence[AttackRecord], output: Output) -> int:
    from efface.evaluation.encoding import encoded
    from efface.reports.robustness import attack_table, hardest

    if records:
        output.say(attack_table(records), "", hardest(records))
        output.say(f"pictures and prompts that were found: {folder / 'attacks'}")
    output.result({"run": str(folder), "attacks": [encoded(record) for record in records]})
    return int(not records or any(record.verdict == "invalid" for record in records))


def _chosen(options: AttackOptions) -> tuple[str, ...]:
    """Gives the attacks' names, each once.

    Raises:
        BadRequest: none is named, or one is unknown.
    """
    known = [entry.name for entry in registry.entries("attacks")]
    if not options.with_:
        raise BadRequest(f"name an attack by --with, or --with all; known: {', '.join(known)}")
    if EVERYTHING in options.with_:
        return tuple(known)
    return tuple(dict.fromkeys(registry.find("attacks", name).name for name in options.with_))
