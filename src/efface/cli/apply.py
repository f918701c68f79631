"""``efface apply RUN``: pictures from a run's model with its delta applied."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface.cli import runs
from efface.cli.generate import Drawing, draw_with
from efface.cli.shell import parse

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Apply", "run"]


@dataclass(frozen=True, kw_only=True)
class Apply(Drawing):
    """A run and what to draw with it."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or a delta file together with --model."""
    model: str | None = None
    """Another copy of the base model; by default the model that the run names."""


def run(arguments: list[str], output: Output) -> int:
    """Draws every prompt with the same seed."""
    options = parse(
        Apply, arguments, prog="efface apply", description="Draws pictures with a run's delta."
    )
    model = options.model or runs.recipe_of(options.source).model
    return draw_with(options, model, (options.source,), output)
