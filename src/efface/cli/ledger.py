"""``efface ledger``: requests to erase, added and revoked in any order, solved together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from efface import registry
from efface.cli.asking import Placed
from efface.cli.shell import Repeated, Shared, parse
from efface.concepts import Concept, ConceptKind, described, names
from efface.errors import BadRequest, MissingInput
from efface.files import check_place, replacing
from efface.runs.words import Words, understood
from efface.workbench import making, runs
from efface.workbench.models import BUNDLED, is_bundled, load_host, refuse_readers

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.ledger import Entry, Ledger

__all__ = ["ACTIONS", "Add", "Erase", "Listing", "Merge", "Replay", "Revoke", "run"]

Place = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="LEDGER")]


@dataclass(frozen=True, kw_only=True)
class Add(Placed):
    """What to add; a ledger that is not there is started."""

    ledger: Place
    """Folder of the ledger."""
    concept: Repeated = ()
    """What to erase; repeat for several in one entry."""
    id: str = ""
    """Name of the request, such as a ticket number; by default made of date and content."""
    date: str = ""
    """Day of the request; today by default."""
    weight: float = 1.0
    """How much the entry counts beside others."""
    kind: ConceptKind | None = None
    """What the names are; by default an object, or what the bundled model knows the word as."""
    anchor: str | None = None
    """What prompts should give instead; by default the empty prompt."""
    model: str | None = None
    """Base model: the bundled one (default), a diffusers folder or a hub id."""
    keep: Repeated = ()
    """For a new ledger: what must stay, whatever is erased; repeat for several."""
    preset: str | None = None
    """For a new ledger: settings of its solves, a preset of uce."""


@dataclass(frozen=True, kw_only=True)
class Listing(Shared):
    """Which ledger to show."""

    ledger: Place
    """Folder of the ledger."""


@dataclass(frozen=True, kw_only=True)
class Revoke(Shared):
    """Which entry no longer counts."""

    ledger: Place
    """Folder of the ledger."""
    id: str
    """Name of the entry."""
    reason: str = ""
    """Why; it is kept with the entry."""
    date: str = ""
    """Day of the revocation; today by default."""


@dataclass(frozen=True, kw_only=True)
class Merge(Shared):
    """Whose entries to take over."""

    ledger: Place
    """Folder of the ledger that grows."""
    other: Path
    """Folder of the ledger whose entries are taken over."""


@dataclass(frozen=True, kw_only=True)
class Replay(Placed):
    """Which ledger to encode anew, and for which base."""

    ledger: Place
    """Folder of the ledger."""
    model: str
    """The other base: a diffusers folder, a hub id or the bundled model."""
    out: Path
    """Folder of the new ledger."""


@dataclass(frozen=True, kw_only=True)
class Erase(Placed):
    """Which ledger to solve, and where to put the run."""

    ledger: Place
    """Folder of the ledger."""
    out: Path
    """Folder of the run: delta and record; efface evaluate, apply and verify read it."""
    model: str | None = None
    """Another copy of the base model; by default the one that the ledger names."""
    overwrite: bool = False
    """Replace the run that the folder holds."""


def run(arguments: list[str], output: Output) -> int:
    """Runs one action on a ledger."""
    if not arguments or arguments[0] in ("-h", "--help"):
        if not arguments:
            raise BadRequest(f"say what to do: efface ledger {' | '.join(ACTIONS)}")
        lines = (f"  {name:<8} {summary}" for name, (_, _, summary) in ACTIONS.items())
        output.say("usage: efface ledger ACTION LEDGER ...\n", *lines)
        return 0
    action, *flags = arguments
    if action not in ACTIONS:
        raise BadRequest(f"there is no ledger action '{action}'; known: {', '.join(ACTIONS)}")
    kind, does, summary = ACTIONS[action]
    options = parse(kind, flags, prog=f"efface ledger {action}", description=f"{summary}.")
    refuse_readers(getattr(options, "model", None) or BUNDLED, "ledger")
    return does(options, output)


def _add(options: Add, output: Output) -> int:
    from efface.ledger import Entry, Ledger
    from efface.ledger.entries import day_of
    from efface.ledger.storage import FILE

    started = (options.ledger / FILE).exists()
    book = Ledger.open(options.ledger) if started else None
    model = options.model or BUNDLED if book is None else _base(options, book)
    words = Words(concepts=options.concept, kind=options.kind, anchor=options.anchor)
    request = understood(words.request(), model)
    Entry(id=options.id or "new", date=day_of(options.date), request=request, weight=options.weight)
    if book is not None:
        _refuse_other_rules(options, book)
        book.refuse_taken(options.id)
    pipe = load_host(model, output, options)
    book = book or _start(options, pipe)
    before = {entry.id for entry in book.entries}
    grown = book.add(pipe, request, id=options.id, date=options.date, weight=options.weight)
    new = next(entry for entry in grown.entries if entry.id not in before)
    output.say(f"added {new.id}: {_erases(new)} ({len(grown.active)} active)")
    output.result({"ledger": str(options.ledger), "id": new.id, "active": len(grown.active)})
    return 0


def _refuse_other_rules(options: Add, book: Ledger) -> None:
    """Refuses another keep set or other settings than a ledger has; the same ones are no harm."""
    from efface.registry import build

    same = not options.keep or _kept(options) == book.keep
    if options.preset is not None:
        same = same and build("methods", "uce", preset=options.preset) == book.method
    if not same:
        raise BadRequest(f"{options.ledger} has its keep set and settings; start a new ledger")


def _kept(options: Add) -> tuple[Concept, ...]:
    return tuple(Concept(name=name, kind=options.kind or "object") for name in options.keep)


def _start(options: Add, pipe: Any) -> Ledger:
    from efface.ledger import Ledger
    from efface.registry import build

    preset = options.preset or registry.measured_preset(options.model or BUNDLED)
    method = build("methods", "uce", preset=preset)
    return Ledger.begun(options.ledger, pipe, method=method, keep=_kept(options))


def _list(options: Listing, output: Output) -> int:
    from efface.ledger import Ledger

    book = Ledger.open(options.ledger)
    output.say(f"{len(book.active)} active of {len(book.entries)}, on {book.base_model}")
    for entry in book.entries:
        gone = entry.revoked
        state = "active" if gone is None else f"revoked {gone.date} {gone.reason}".rstrip()
        output.say(f"{entry.id}  {entry.date}  {_erases(entry)}  {state}")
    rows = [
        {
            "id": entry.id,
            "date": entry.date,
            "weight": entry.weight,
            "request": described(entry.request),
            "revoked": None if entry.revoked is None else vars(entry.revoked),
        }
        for entry in book.entries
    ]
    output.result({"base_model": book.base_model, "settings": vars(book.method), "entries": rows})
    return 0


def _revoke(options: Revoke, output: Output) -> int:
    from efface.ledger import Ledger

    book = Ledger.open(options.ledger).revoke(options.id, reason=options.reason, date=options.date)
    output.say(f"revoked {options.id} ({len(book.active)} active)")
    output.result({"ledger": str(options.ledger), "id": options.id, "active": len(book.active)})
    return 0


def _merge(options: Merge, output: Output) -> int:
    from efface.ledger import Ledger

    book = Ledger.open(options.ledger).merge(Ledger.open(options.other))
    output.say(f"merged {options.other} into {options.ledger} ({len(book.active)} active)")
    output.result({"ledger": str(options.ledger), "active": len(book.active)})
    return 0


def _replay(options: Replay, output: Output) -> int:
    from efface.ledger import Ledger

    book = Ledger.open(options.ledger)
    check_place(options.out, protected=[options.ledger])
    pipe = load_host(options.model, output, options)
    with replacing(options.out, protected=[options.ledger]) as place:
        fresh = book.replay(place, pipe)
    output.say(f"replayed {len(fresh.entries)} entries on {fresh.base_model}: {options.out}")
    output.result({"ledger": str(options.out), "active": len(fresh.active)})
    return 0


def _erase(options: Erase, output: Output) -> int:
    from efface.ledger import Ledger
    from efface.runs.checks import stamped

    book = Ledger.open(options.ledger)
    model = _base(options, book)
    with making.open_new_run(
        options.out, book.recipe(model), overwrite=options.overwrite
    ) as folder:
        pipe = load_host(model, output, options)
        with output.progress(f"erasing {len(book.active)} entries") as monitor:
            result = book.erase(pipe, monitor=monitor)
        if asked := options.recorded():
            result = stamped(result, replace(book.recipe(model), **asked))
        making.write_run(folder, result)
    output.say(
        f"erased {len(book.active)} entries in {result.seconds:.1f} s: {options.out / runs.DELTA}"
    )
    output.result({"run": str(options.out), "delta": result.delta.id, "active": len(book.active)})
    return 0


def _base(options: Add | Erase, book: Ledger) -> str:
    """Names the base to load; a ledger knows the name of a folder, not its place."""
    if options.model is not None:
        return options.model
    if is_bundled(book.base_model) or "/" in book.base_model:
        return book.base_model
    raise MissingInput(f"the ledger was made on {book.base_model}; say where it is: --model FOLDER")


def _erases(entry: Entry) -> str:
    return ", ".join(names(each.concept)[0] for each in entry.request.erasures)


ACTIONS: dict[str, tuple[type[Any], Callable[[Any, Output], int], str]] = {
    "add": (Add, _add, "Adds a request; starts the ledger if there is none"),
    "list": (Listing, _list, "Lists all entries, revoked ones too"),
    "revoke": (Revoke, _revoke, "Takes an entry out; it stays as a tombstone"),
    "merge": (Merge, _merge, "Takes over the entries of another ledger"),
    "replay": (Replay, _replay, "Encodes all requests for another base model"),
    "erase": (Erase, _erase, "Solves for the delta of all active entries"),
}
