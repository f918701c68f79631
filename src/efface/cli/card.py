"""``efface card RUN``: the card of a measured run for a hub, and sending it there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from efface.cli.debias import refuse_debiased
from efface.cli.shell import Shared, parse
from efface.errors import BadRequest, MissingInput
from efface.files import read_json, replacing, seal
from efface.workbench import runs

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Card", "run"]

ABOUT = "Writes a measured run's card for a hub, with numbers, pictures and delta."


@dataclass(frozen=True, kw_only=True)
class Card(Shared):
    """Which run's card, where to, and what the run does not know of its base."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder; it must have been measured."""
    out: Path | None = None
    """Folder to write; without it, and without --push, the card is printed."""
    push: str | None = None
    """Repository of the hub to send it to, as owner/name; nothing is sent unless --no-dry-run."""
    dry_run: bool = True
    """Only say what --push would send."""
    private: bool = False
    """Make a new repository a private one."""
    file: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """File to put beside the card, such as an exported LoRA; once per file."""
    base_model: str = ""
    """Name of the base on the hub, as owner/name, where the run was made from a folder."""
    license: str = ""
    """Licence of the base as hubs name it, where its folder's card does not say it."""
    license_link: str = ""
    """Where that licence is written."""
    overwrite: bool = False
    """Replace an older folder there, if nothing in it was added or changed since."""


def run(arguments: list[str], output: Output) -> int:
    """Writes, prints or sends the card.

    Raises:
        BadRequest: no name of a repository, or the place is taken.
        MissingInput: the run was not measured, or a file is not there.
    """
    options = parse(Card, arguments, prog="efface card", description=ABOUT)
    from efface.reports.card_text import card_text
    from efface.reports.publishing import check_repository, push, with_names, write_repository

    found = runs.open_run(options.source)
    values = with_names(
        _values(found),
        base_model=options.base_model,
        licence=options.license,
        licence_link=options.license_link,
    )
    if options.push is not None:
        check_repository(options.push)
    if options.out is None and options.push is None:
        output.say(card_text(values))
        output.result({"card": card_text(values)})
        return 0
    with ExitStack() as opened:
        if options.out is None:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        else:
            place = replacing(options.out, overwrite=options.overwrite, protected=[found.folder])
            folder = opened.enter_context(place)
            folder.mkdir()
        files = write_repository(folder, found.folder, values, options.file)
        sizes = {name: (folder / name).stat().st_size for name in files}
        told: dict[str, Any] = {"files": sizes, "out": options.out and str(options.out)}
        if options.push is not None:
            told |= {"repository": options.push, "dry_run": options.dry_run, "commit": None}
            if not options.dry_run:
                told["commit"] = push(folder, options.push, private=options.private)
        if options.out is not None:
            seal(folder)
    output.say(*_lines(options, told))
    output.result(told)
    return 0


def _values(found: runs.Run) -> Mapping[str, Any]:
    """Reads the run's ``card.json``.

    Raises:
        MissingInput: there is none of this delta.
        BadRequest: it is of an older format.
    """
    from efface.exchange.cards import cards_of
    from efface.reports.card_text import check_card

    own, others = cards_of(found.folder, found.delta.id)
    file = next((card for card in own if card.name == "card.json"), None)
    if file is None:
        refuse_debiased(runs.recipe_of(found.folder), found.folder)
        why = "holds a card of another delta" if others else "holds no card.json"
        raise MissingInput(f"{found.folder} {why}; measure it: efface evaluate {found.folder}")
    if changed := [name for name in runs.other_reports(found) if name == "card.json"]:
        raise BadRequest(
            f"{found.folder / changed[0]} is not the one that was written when the run was "
            "measured; measure it again: efface evaluate RUN"
        )
    return check_card(read_json(file), str(file))


def _lines(options: Card, told: Mapping[str, Any]) -> list[str]:
    sizes: Mapping[str, int] = told["files"]
    lines = [f"{name}  {size / 1e6:.2f} MB" for name, size in sizes.items()]
    if options.out is not None:
        lines.append(f"wrote {options.out}")
    if options.push is not None and options.dry_run:
        lines.append(f"dry run: nothing was sent to {options.push}; send it with --no-dry-run")
    elif options.push is not None:
        lines.append(f"sent to {options.push}: {told['commit']}")
    return lines
