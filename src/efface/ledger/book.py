"""The ledger: entries in a folder, and the one delta that all active entries make together."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from efface.concepts import Concept, ErasureRequest, described, names
from efface.contracts import Monitor, silent
from efface.deltas.recording import Recording, model_name
from efface.deltas.results import ErasureResult
from efface.errors import BadRequest
from efface.hosts.families import layout
from efface.hosts.loading import BUNDLED, bundled
from efface.ledger import storage
from efface.ledger.entries import Entry, seal
from efface.ledger.rows import (
    Encoder,
    Rules,
    copy_rows,
    encoded,
    kept_of,
    read_rows,
    stacked,
    stored_rows,
    write_rows,
)
from efface.methods.uce import Uce
from efface.runs.checks import check_family, inspect
from efface.text.branch_edits import BranchEdit, edit_branches
from efface.text.branches import TextBranch, text_branches
from efface.text.token_rules import worded_by

__all__ = ["Ledger"]


@dataclass(frozen=True)
class Ledger:
    """Requests to erase, solved together; frozen: every change gives another ledger, on disk too.

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
            BadRequest: the id is taken, a concept is erased by another active entry, or a wording
                has no tokens or equals its target.
        """
        self._check_encoder(model)
        request = replace(_filled(model, request), keep=())
        day = date or datetime.date.today().isoformat()
        name = id or f"{day}-{seal(described(request))[:8]}"
        if any(entry.id == name for entry in self.entries):
            raise BadRequest(f"the ledger has an entry '{name}' already; give another --id")
        entry = Entry(id=name, date=day, request=request, weight=weight)
        grown = replace(self, entries=_sorted([*self.entries, entry]))
        grown.request(model)
        pairs = encoded(model, request, self._rules)
        rows = write_rows(self._rows_of(name), pairs)
        told = [replace(each, rows=rows) if each.id == name else each for each in grown.entries]
        return replace(grown, entries=tuple(told))._saved()

    def revoke(self, name: str, *, reason: str = "", date: str = "") -> Ledger:
        """Takes an entry out of the solve; it stays as a tombstone.

        Raises:
            BadRequest: there is no such entry, or it was revoked before.
        """
        day = date or datetime.date.today().isoformat()
        gone = self.find(name).revoke(date=day, reason=reason)
        told = tuple(gone if entry.id == name else entry for entry in self.entries)
        return replace(self, entries=told)._saved()

    def merge(self, other: Ledger) -> Ledger:
        """Takes over the entries of another ledger; what either revoked is revoked.

        Raises:
            BadRequest: another text encoder, other settings or keep set, or one id with two
                contents.
        """
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
                content = stored_rows(other._rows_of(entry.id), entry.rows)
                copy_rows(self._rows_of(entry.id), content)
                mine[entry.id] = entry
            elif replace(known, revoked=None) != replace(entry, revoked=None):
                raise BadRequest(f"both ledgers have an entry '{entry.id}' and they differ")
            elif known.active:
                mine[entry.id] = entry
        merged = replace(self, entries=_sorted(list(mine.values())))
        merged._joint()
        return merged._saved()

    def replay(self, folder: Path | str, model: Any) -> Ledger:
        """Encodes all requests anew for another base model, into a new ledger.

        Revoked entries come along as tombstones.

        Raises:
            BadRequest: see `create` and `add`.
        """
        fresh = Ledger.begun(folder, model, method=self.method, keep=self.keep)
        told = []
        for entry in self.entries:
            pairs = encoded(model, entry.request, self._rules)
            told.append(replace(entry, rows=write_rows(fresh._rows_of(entry.id), pairs)))
        return replace(fresh, entries=tuple(told))._saved()

    def request(self, model: Any) -> ErasureRequest:
        """Writes one request for all active entries, with what is kept.

        Raises:
            BadRequest: nothing is active, or two entries erase the same concept.
        """
        joint = _filled(model, self._joint())
        if not self.keep:
            return joint
        gone = {name for erasure in joint.erasures for name in names(erasure.concept)}
        return replace(joint, keep=tuple(one for one in self.keep if one.name not in gone))

    def erase(self, model: Any, *, monitor: Monitor = silent) -> ErasureResult:
        """Solves for the delta of all active entries; the model stays as it was.

        Raises:
            BadRequest: nothing is active, another base model, or stored rows do not fit.
            NothingChanged, ModelCollapsed: see `efface.erase`.
        """
        self._check_encoder(model)
        request = self.request(model)
        generator = torch.Generator().manual_seed(0)
        recording = Recording(model, generator=generator, monitor=monitor, steps=1)
        moved_rows = [
            (self._rows_of(entry.id), read_rows(self._rows_of(entry.id), entry.rows), entry.weight)
            for entry in self.active
        ]
        keep = worded_by(request, self.method.wordings).keep

        def solve(branch: TextBranch) -> BranchEdit:
            kept = kept_of(branch, keep, self._rules, self.folder / "keep")
            return self.method.solve(stacked(branch.key, moved_rows), kept)

        edit = edit_branches(text_branches(model), solve)
        recording.step(edit.curve[0])
        diagnostics = edit.diagnostics | {"entries": len(self.active)}
        result = recording.result(self.method, request, edit.patches, diagnostics=diagnostics)
        seen = inspect(model, result.delta, request)
        return replace(result, diagnostics={**result.diagnostics, **seen})

    @property
    def _rules(self) -> Rules:
        method = self.method
        return Rules(method.tokens, method.target, method.wordings, method.always_keep)

    def _rows_of(self, name: str) -> Path:
        return self.folder / "rows" / f"{name}.safetensors"

    def _joint(self) -> ErasureRequest:
        if not self.active:
            raise BadRequest(f"the ledger {self.folder} has no active entry; add one first")
        return ErasureRequest(
            erasures=tuple(each for entry in self.active for each in entry.request.erasures)
        )

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


def _sorted(entries: list[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.id))


def _filled(model: Any, request: ErasureRequest) -> ErasureRequest:
    """Lets the bundled model fill in what it knows of its words."""
    name = model_name(model)
    filled: ErasureRequest = bundled(name).understood(request) if name in BUNDLED else request
    return filled
