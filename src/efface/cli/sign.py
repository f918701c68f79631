"""``efface sign FOLDER``: a signature of a run or of what was exported, by one's own key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface.cli.shell import Shared, parse
from efface.errors import BadRequest

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Sign", "run"]


@dataclass(frozen=True, kw_only=True)
class Sign(Shared):
    """What is signed, with which key."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Run, or folder of an export or a card; every file in it is signed."""
    key: Path
    """Private elliptic-curve key, as PEM without a password."""
    out: Path | None = None
    """Signature to write; by default model.sig in the folder."""
    overwrite: bool = False
    """Replace an older signature."""


def run(arguments: list[str], output: Output) -> int:
    """Signs a folder, and says how the signature is checked.

    Raises:
        MissingInput: the extra is not installed, or there is no folder or key.
        BadRequest: a signature is there, the key lies in the folder, or it cannot sign.
    """
    about = "Signs every file of a folder with one's own key."
    options = parse(Sign, arguments, prog="efface sign", description=about)
    from efface.exchange.signing import SIGNATURE, sign

    place = options.out or options.source / SIGNATURE
    if place.exists() and not options.overwrite:
        raise BadRequest(f"{place} is there already; give another --out, or --overwrite")
    if options.source.resolve() in options.key.resolve().parents:
        raise BadRequest(f"{options.key} lies in the folder that is signed; keep keys elsewhere")
    sign(options.source, place, key=options.key)
    check = f"efface verify {options.source} --signature {place} --key PUBLIC"
    output.say(f"wrote {place}; check it with: {check}")
    output.result({"folder": str(options.source), "signature": str(place)})
    return 0
