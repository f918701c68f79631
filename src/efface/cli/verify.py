"""``efface verify RUN``: same bytes, same base, same pictures?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface.cli import runs, smoke
from efface.cli.hosts import host_for
from efface.cli.shell import Shared, parse

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Verify", "run"]


@dataclass(frozen=True, kw_only=True)
class Verify(Shared):
    """Which run to check."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    model: str | None = None
    """Another copy of the base model; by default the model that the run names."""


def run(arguments: list[str], output: Output) -> int:
    """Checks hashes, then the base, then redraws the smoke set.

    A broken file or another base is an error (exit code 2); other pictures are a mismatch (1).
    """
    options = parse(Verify, arguments, prog="efface verify", description="Checks a run.")
    found = runs.open_run(options.source)
    output.say(f"hashes  equal ({runs.DELTA} is {found.delta.id})")
    recipe = runs.recipe_of(options.source)
    drawn = smoke.has_smoke(found.folder)
    pipe = host_for(options.model or recipe.model, recipe.method, output, pictures=drawn)
    with found.delta.apply(pipe):
        output.say("base    the model that the delta was made for")
    if not drawn:
        output.say("smoke   no pictures were kept with this run (efface erase --smoke keeps some)")
        output.result({"delta": found.delta.id, "agrees": True, "smoke": None})
        return 0
    with output.progress("redrawing the smoke set") as monitor:
        far = smoke.compare(found.folder, pipe, found.delta, monitor)
    agrees = far.mean <= smoke.TOLERANCE
    output.say(f"smoke   {_words(far, agrees=agrees)}")
    output.result({"delta": found.delta.id, "agrees": agrees, "smoke": asdict(far)})
    return 0 if agrees else 1


def _words(far: smoke.Difference, *, agrees: bool) -> str:
    if far.equal == far.pictures:
        return f"equal: all {far.pictures} pictures, every pixel"
    verdict = "close" if agrees else "DIFFERENT"
    return (
        f"{verdict}: {far.equal} of {far.pictures} pictures equal; the worst differs by "
        f"{far.mean:.2f} of 255 on average, {far.largest} at most"
    )
