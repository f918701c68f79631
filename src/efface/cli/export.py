"""``efface export RUN --as FORMAT``: a run's delta in the files that other tools read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface.cli.asking import Placed
from efface.cli.shell import parse
from efface.workbench.exporting import Format, Wanted, export

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Export", "run"]


@dataclass(frozen=True, kw_only=True)
class Export(Placed):
    """What to export, as what, and to where."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    as_: Annotated[Format, tyro.conf.arg(name="as")]
    """What to write; docs/exchange.md says who reads it and what is lost."""
    out: Path
    """File (kohya, comfyui, spm, adapter) or folder (the others) to write."""
    model: str | None = None
    """Folder of the base model; by default the model that the run names."""
    scale: float = 1.0
    """How much of the delta goes in; 1 is all of it."""
    rank: int | None = None
    """Cut LoRA files to this rank; what is lost is told. Needed where a change is dense, except by
    comfyui."""
    author: str = ""
    """Who made the edit, for the file's header; nobody is named unasked."""
    license: str = ""
    """Licence of the edit, for the file's header; by default what the base's card says."""
    overwrite: bool = False
    """Replace an older export there, if nothing in it was added or changed since."""


def run(arguments: list[str], output: Output) -> int:
    """Writes the files and says what is lost.

    Raises:
        BadRequest: the place is taken, or the format cannot hold the delta.
    """
    about = "Writes a run's delta in the files that other tools read."
    options = parse(Export, arguments, prog="efface export", description=about)
    names = [each.name for each in fields(Wanted) if each.name != "placed"]
    given = {name: getattr(options, name) for name in names}
    export(Wanted(**given, placed=options), output)
    return 0
