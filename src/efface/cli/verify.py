"""``efface verify RUN``: same bytes, same base, same pictures?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from efface.cli import runs, smoke
from efface.cli.hosts import host_for
from efface.cli.shell import Shared, parse

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.deltas.delta import Delta

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
        output.say(f"base    {_base(pipe, found.delta)}")
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


def _base(pipe: Any, delta: Delta) -> str:
    """Says how far the base is known to be the delta's.

    Raises:
        BadDelta: the weights that the delta changes fit, and other ones do not.
    """
    from efface.deltas.base_prints import base_prints, differing
    from efface.errors import BadDelta

    prints = delta.provenance.base_prints
    if not prints:
        return "fits the delta, which does not say what the model's other weights were"
    if others := differing(base_prints(pipe), prints):
        raise BadDelta(
            f"the weights that delta {delta.id} changes are those of its base, "
            f"{delta.provenance.base_model}, and others are not, in: {', '.join(others)}; give "
            "the model it was made for"
        )
    return "the model that the delta was made for"


def _words(far: smoke.Difference, *, agrees: bool) -> str:
    if far.equal == far.pictures:
        return f"equal: all {far.pictures} pictures, every pixel"
    verdict = "close" if agrees else "DIFFERENT"
    return (
        f"{verdict}: {far.equal} of {far.pictures} pictures equal; the worst differs by "
        f"{far.mean:.2f} of 255 on average, {far.largest} at most"
    )
