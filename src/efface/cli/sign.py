"""``efface sign FOLDER``: a signature, or C2PA manifests, of a run or export by one's own key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface.cli.shell import Shared, parse
from efface.errors import BadRequest
from efface.workbench import runs

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Sign", "run"]


@dataclass(frozen=True, kw_only=True)
class Sign(Shared):
    """What is signed, with which key."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Run, or folder of an export or a card; every file in it is signed."""
    key: Path
    """Private key, as PEM without a password: of an elliptic curve, or what the certificate has."""
    c2pa: bool = False
    """Write a C2PA manifest beside every safetensors file instead, which says what card.json says;
    needs --certificate."""
    inside: bool = False
    """With --c2pa: put each manifest into its file's own header, as C2PA 2.4 has it; tensors stay
    as they are."""
    certificate: Path | None = None
    """The key's certificate as PEM, with those that issued it; for --c2pa."""
    out: Path | None = None
    """Signature to write; by default model.sig in the folder."""
    overwrite: bool = False
    """Replace an older signature, or older manifests."""


def run(arguments: list[str], output: Output) -> int:
    """Signs a folder, and says how the signature is checked.

    Raises:
        MissingInput: the extra is not installed, or there is no folder, key or certificate.
        BadRequest: a signature is there, the key lies in the folder, or it cannot sign.
    """
    about = "Signs every file of a folder with one's own key."
    options = parse(Sign, arguments, prog="efface sign", description=about)
    from efface.exchange.signing import SIGNATURE, sign

    if options.source.resolve() in options.key.resolve().parents:
        raise BadRequest(f"{options.key} lies in the folder that is signed; keep keys elsewhere")
    if options.c2pa or options.inside or options.certificate is not None:
        return _manifests(options, output)
    place = options.out or options.source / SIGNATURE
    if place.exists() and not options.overwrite:
        raise BadRequest(f"{place} is there already; give another --out, or --overwrite")
    sign(options.source, place, key=options.key)
    check = f"efface verify {options.source} --signature {place} --key PUBLIC"
    output.say(f"wrote {place}; check it with: {check}")
    output.result({"folder": str(options.source), "signature": str(place)})
    return 0


def _manifests(options: Sign, output: Output) -> int:
    """Writes C2PA manifests, and says how they are checked.

    Raises:
        MissingInput: as `run`.
        BadRequest: as `run`; or flags that do not go together, or a card of another delta.
    """
    if not options.c2pa or options.certificate is None or options.out is not None:
        raise BadRequest(
            "manifests lie in or beside their files and need a certificate: give --c2pa and "
            "--certificate FILE, and no --out"
        )
    from efface.exchange.cards import cards_of
    from efface.exchange.manifests import write_manifests

    if (options.source / runs.DELTA).is_file():
        delta = runs.read_delta(options.source).id
        if others := cards_of(options.source, delta)[1]:
            raise BadRequest(f"{others[0]} is not the card of delta {delta} beside it")
    places = write_manifests(
        options.source,
        certificate=options.certificate,
        key=options.key,
        inside=options.inside,
        overwrite=options.overwrite,
    )
    check = f"efface verify {options.source} --c2pa --certificate AUTHORITY"
    done = "signed inside" if options.inside else "wrote"
    output.say(*(f"{done} {place}" for place in places), f"check with: {check}")
    written = [str(place) for place in places]
    output.result({"folder": str(options.source), "manifests": written})
    return 0
