"""The ledger: entries in a folder, and the one delta that all active entries make together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from efface.concepts import Concept, Erasure, ErasureRequest, described, names
from efface.contracts import Monitor, silent
from efface.deltas.recording import model_name, model_place
from efface.deltas.results import ErasureResult
from efface.errors import BadRequest
from efface.evaluation import locks
from efface.hosts.families import layout
from efface.hosts.states import check_erasable
from efface.ledger import storage
from efface.ledger.entries import Entry, day_of, file_key, seal
from efface.ledger.rows import (
    Encoder,
    Rules,
    copy_rows,
    encoded,
    read_rows,
    stored_rows,
    write_rows,
)
from efface.ledger.solve import solve
from efface.methods.uce import Uce
from efface.runs.checks import check_family
from efface.runs.recipe import LedgerEntry, LedgerRecipe
from efface.runs.words import understood

__all__ = ["Ledger"]

PATIENCE = 10.0
"""Seconds that a change waits for another one to end."""


@dataclass(frozen=True)
class Ledger:
    """Requests to erase, solved together; frozen: every change gives another ledger, on disk too.

    A change starts from what the folder holds by then, not from what this object was read from, and
    keeps others out meanwhile, so that no change of another process or object is lost.

    All active entries go into one closed-form solve (UCE's), in the order of their ids, so the
    delta depends on which entries are active and on nothing else: not on the order in which they
    were added, not on entries that were revoked.

    Each entry's token rows are encoded once, when it is added, and kept beside the ledger; so is
    the Gram matrix of the keep set. A solve therefore costs one pass over the stored rows. A family
    whose text is read in two places has rows for both, and both are solved for.
    """

    folder: Path
    base_model: str
    encoder: Encoder
    method: Uce
    keep: tuple[Concept, ...]
    """What stays, for all entries; empty: what the bundled model keeps by itself, or nothing."""
    entries: tuple[Entry, ...]

    @classmethod
    def create(
        cls, folder: Path | str, model: Any, *, method: Uce, keep: Sequence[Concept] = ()
    ) -> Ledger:
        """Starts an empty ledger for a base model, with the settings of all its solves.

        Raises:
            BadRequest: the folder holds a ledger already, or cannot be written to; or the settings
                look at all entries together, whose contributions would not add up.
        """
        return cls.begun(folder, model, method=method, keep=keep)._saved()

    @classmethod
    def begun(
        cls, folder: Path | str, model: Any, *, method: Uce, keep: Sequence[Concept] = ()
    ) -> Ledger:
        """Gives a ledger whose file is written with its first entry.

        Raises:
            BadRequest: see `create`.
        """
        folder = Path(folder)
        if method.name != "uce":
            raise BadRequest(
                f"a ledger adds up entries of uce, each for itself, and {method.name} looks at all "
                "requests together (a map of rows is made of rows sampled among all of them): give "
                "the ledger uce, or erase without one"
            )
        if method.reweightings or method.unanchored == "nearest":
            raise BadRequest(
                "a ledger adds up entries, each for itself; reweightings and unanchored='nearest' "
                "look at prompts of all entries together: leave them out, or erase without one"
            )
        if (folder / storage.FILE).exists():
            raise BadRequest(
                f"{folder} holds a ledger already; add to it, or choose another folder"
            )
        made = cls(folder, model_name(model), Encoder.of(model), method, tuple(keep), ())
        made._check_encoder(model)
        return made

    @classmethod
    def open(cls, folder: Path | str) -> Ledger:
        """Reads a ledger.

        Raises:
            BadRequest: there is none, it was changed by hand, or it is of a newer version.
        """
        return cls(Path(folder), **storage.read(Path(folder)))

    @property
    def active(self) -> tuple[Entry, ...]:
        """The entries that count, in the order of their ids."""
        return tuple(entry for entry in self.entries if entry.active)

    def find(self, name: str) -> Entry:
        """Gives one entry.

        Raises:
            BadRequest: the ledger has none of that id.
        """
        found = next((entry for entry in self.entries if entry.id == name), None)
        if found is None:
            known = ", ".join(entry.id for entry in self.entries) or "none yet"
            raise BadRequest(f"the ledger has no entry '{name}'; it has: {known}")
        return found

    def add(
        self,
        model: Any,
        request: ErasureRequest,
        *,
        id: str = "",
        date: str = "",
        weight: float = 1.0,
    ) -> Ledger:
        """Encodes a request and adds it.

        Args:
            model: the base model; of it only what turns prompts into rows is used.
            request: what to erase. Its ``keep`` is ignored: a ledger keeps for all entries.
            id: name of the request; left out, made of the date and the request.
            date: of the request; today when left out.
            weight: how much its tokens count beside those of other entries.

        Raises:
            BadRequest: the id is taken, the date is not a day, another active entry steers a
                concept elsewhere, or a wording has no tokens or equals its target.
        """
        self._check_encoder(model)
        request = replace(understood(request, model_place(model)), keep=())
        day = day_of(date)
        name = id or f"{day}-{seal(described(request))[:8]}"
        entry = Entry(id=name, date=day, request=request, weight=weight)
        with self._newest() as book:
            book.refuse_taken(name)
            grown = replace(book, entries=_sorted([*book.entries, entry]))
            grown.request(model)
            rows = write_rows(book._rows_of(name), encoded(model, request, book._rules))
            return grown._with(replace(entry, rows=rows))._saved()

    def refuse_taken(self, name: str) -> None:
        """Refuses the id of an entry that is there, or one whose file would be the same somewhere.

        Raises:
            BadRequest: naming it.
        """
        _refuse_alike(name, [entry.id for entry in self.entries])

    def revoke(self, name: str, *, reason: str = "", date: str = "") -> Ledger:
        """Takes an entry out of the solve; it stays as a tombstone.

        Raises:
            BadRequest: there is no such entry, it was revoked before, or the date is not a day.
        """
        day = day_of(date)
        with self._newest() as book:
            return book._with(book.find(name).revoke(date=day, reason=reason))._saved()

    def merge(self, other: Ledger) -> Ledger:
        """Takes over the entries of another ledger; what either revoked is revoked.

        Raises:
            BadRequest: another text encoder, other settings or keep set, or one id with two
                contents.
        """
        with self._newest() as book:
            merged = replace(book, entries=_sorted(book._joined_with(other)))
            merged._joint()
            return merged._saved()

    def _joined_with(self, other: Ledger) -> list[Entry]:
        """Lists the entries of both, after taking over the rows of those that are new."""
        if not self.encoder.same(other.encoder):
            raise BadRequest(
                f"{other.folder} was made with another text encoder ({other.base_model}, here "
                f"{self.base_model}); replay it on this base first"
            )
        if (self.method, self.keep) != (other.method, other.keep):
            raise BadRequest(
                f"{other.folder} solves with other settings or keeps other concepts; "
                "replay it with those of this ledger first"
            )
        mine = {entry.id: entry for entry in self.entries}
        for entry in other.entries:
            if (known := mine.get(entry.id)) is None:
                _refuse_alike(entry.id, mine)
                content = stored_rows(other._rows_of(entry.id), entry.rows)
                copy_rows(self._rows_of(entry.id), content)
                mine[entry.id] = entry
            elif replace(known, revoked=None) != replace(entry, revoked=None):
                raise BadRequest(f"both ledgers have an entry '{entry.id}' and they differ")
            elif known.active:
                mine[entry.id] = entry
        return list(mine.values())

    def replay(self, folder: Path | str, model: Any) -> Ledger:
        """Encodes all requests anew for another base model, into a new ledger.

        Revoked entries come along as tombstones.

        Raises:
            BadRequest: see `create` and `add`.
        """
        fresh = Ledger.begun(folder, model, method=self.method, keep=self.keep)
        moved = []
        for entry in self.entries:
            request = replace(understood(entry.request, model_place(model)), keep=())
            rows = write_rows(fresh._rows_of(entry.id), encoded(model, request, self._rules))
            moved.append(replace(entry, request=request, rows=rows))
        return replace(fresh, entries=tuple(moved))._saved()

    def request(self, model: Any) -> ErasureRequest:
        """Writes one request for all active entries, with what is kept.

        Raises:
            BadRequest: nothing is active, or two entries steer one concept to different places.
        """
        return self._filled(model_place(model))

    @property
    def solved(self) -> tuple[Entry, ...]:
        """The active entries that a solve reads: those that no other one covers.

        A second request for the same concepts changes nothing; it counts once the first is revoked.
        """
        return tuple(e for e in self.active if not any(_covers(other, e) for other in self.active))

    def erase(self, model: Any, *, monitor: Monitor = silent) -> ErasureResult:
        """Solves for the delta of all active entries; the model stays as it was.

        Raises:
            BadRequest: nothing is active, another base model, or stored rows do not fit.
            NothingChanged, ModelCollapsed: see `efface.erase`.
        """
        check_erasable(model)
        self._check_encoder(model)
        recipe = self.recipe(model_place(model))
        rows = [
            (self._rows_of(each.id), read_rows(self._rows_of(each.id), each.rows), each.weight)
            for each in self.solved
        ]
        return solve(model, recipe, rows, keep_folder=self.folder / "keep", monitor=monitor)

    def recipe(self, place: str) -> LedgerRecipe:
        """Writes down what a solve on a model depends on.

        Raises:
            BadRequest: see `request`.
        """
        erasures = self._joint().erasures
        entries = tuple(
            LedgerEntry(
                id=entry.id,
                weight=entry.weight,
                erasures=tuple(map(erasures.index, entry.request.erasures)),
            )
            for entry in self.solved
        )
        return LedgerRecipe(
            model=place,
            request=self._filled(place),
            ledger=str(self.folder),
            entries=entries,
            settings=asdict(self.method),
        )

    def _filled(self, place: str) -> ErasureRequest:
        joint = understood(self._joint(), place)
        if not self.keep:
            return joint
        gone = {name for erasure in joint.erasures for name in names(erasure.concept)}
        return replace(joint, keep=tuple(one for one in self.keep if one.name not in gone))

    @property
    def _rules(self) -> Rules:
        return Rules.of(self.method)

    def _rows_of(self, name: str) -> Path:
        return self.folder / "rows" / f"{name}.safetensors"

    def _joint(self) -> ErasureRequest:
        """Joins what entries erase, each concept once.

        Raises:
            BadRequest: nothing is active, or two entries erase one concept in different ways.
        """
        if not self.active:
            raise BadRequest(f"the ledger {self.folder} has no active entry; add one first")
        by_name: dict[str, tuple[str, Erasure]] = {}
        for entry in self.active:
            for erasure in entry.request.erasures:
                for name in names(erasure.concept):
                    first, known = by_name.setdefault(name, (entry.id, erasure))
                    if known != erasure:
                        raise BadRequest(
                            f"the entries '{first}' and '{entry.id}' both erase '{name}' and "
                            "differ in its anchor, kind or synonyms; revoke one, or say the same "
                            "in both"
                        )
        erasures = [each for entry in self.active for each in entry.request.erasures]
        return ErasureRequest(erasures=tuple(dict.fromkeys(erasures)))

    @contextmanager
    def _newest(self) -> Iterator[Ledger]:
        """Keeps others out of the folder, and gives the ledger that it holds by now."""
        with locks.locked(self.folder, patience=PATIENCE):
            begun = not (self.folder / storage.FILE).exists()
            yield self if begun else Ledger.open(self.folder)

    def _with(self, changed: Entry) -> Ledger:
        """Puts an entry in the place of the one with its id."""
        kept = [entry for entry in self.entries if entry.id != changed.id]
        return replace(self, entries=_sorted([*kept, changed]))

    def _check_encoder(self, model: Any) -> None:
        check_family("uce", self.method.families, layout(model))
        if not self.encoder.same(Encoder.of(model)):
            raise BadRequest(
                f"the ledger was made with the text encoder of {self.base_model} and "
                f"{model_name(model)} has another; replay it on this base: efface ledger replay"
            )

    def _saved(self) -> Ledger:
        storage.write(
            self.folder,
            base_model=self.base_model,
            encoder=self.encoder,
            method=self.method,
            keep=self.keep,
            entries=self.entries,
        )
        return self


def _refuse_alike(name: str, known: Iterable[str]) -> None:
    """Refuses ids that name one file where capitals or ways to write a letter are not told apart.

    Raises:
        BadRequest: naming the entry that is there.
    """
    for each in known:
        if file_key(each) == file_key(name):
            raise BadRequest(f"the ledger has an entry '{each}' already; give another --id")


def _sorted(entries: list[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.id))


def _covers(one: Entry, other: Entry) -> bool:
    """Says whether an entry erases all that another one does, with as much weight."""
    mine, theirs = (frozenset(each.request.erasures) for each in (one, other))
    if not theirs <= mine or other.weight > one.weight:
        return False
    return (mine, one.weight) != (theirs, other.weight) or one.id < other.id
