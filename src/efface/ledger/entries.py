"""What a ledger says about one request: who asked when for what, and whether it was revoked."""

from __future__ import annotations

import datetime
import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from efface.concepts import ErasureRequest, described, request_from
from efface.errors import BadRequest

__all__ = ["Entry", "Revocation", "day_of", "entry_from", "file_key", "seal", "written"]

_LONGEST = 200
"""Bytes of an id, which names files."""


def file_key(name: str) -> str:
    """Writes an id as disks compare names that do not tell capitals apart."""
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True, kw_only=True)
class Revocation:
    """That a request no longer counts; the entry stays as a record."""

    date: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One request in a ledger.

    Raises:
        BadRequest: the id cannot name a file, or the weight is not above zero.
    """

    id: str
    """Name of the request, such as a ticket number; entries are solved in the order of their ids.
    """
    date: str
    """Day of the request, as ISO 8601 writes it."""
    request: ErasureRequest
    """What is erased; what is kept is said by the ledger, for all entries."""
    weight: float = 1.0
    """How much the entry's tokens count beside those of others."""
    rows: str = ""
    """SHA-256 of the file with the entry's token rows."""
    revoked: Revocation | None = None

    def __post_init__(self) -> None:
        if not self.id or not all(letter.isalnum() or letter in "-_." for letter in self.id):
            raise BadRequest(
                f"'{self.id}' cannot be the id of an entry; use letters, digits, '-', '_' and '.'"
            )
        if self.id.startswith("."):
            raise BadRequest(f"the id '{self.id}' starts with a dot; choose another")
        if len(self.id.encode()) > _LONGEST:
            raise BadRequest(f"the id '{self.id:.40}' is too long to name a file; choose another")
        if not self.weight > 0:
            raise BadRequest(f"entry '{self.id}' has weight {self.weight}; it must be above zero")

    @property
    def active(self) -> bool:
        """Whether the request counts."""
        return self.revoked is None

    def revoke(self, *, date: str, reason: str) -> Entry:
        """Gives the entry as a tombstone.

        Raises:
            BadRequest: it was revoked before.
        """
        if self.revoked is not None:
            raise BadRequest(f"entry '{self.id}' was revoked on {self.revoked.date} already")
        return replace(self, revoked=Revocation(date=date, reason=reason))


def day_of(date: str) -> str:
    """Gives a day as it is written in a ledger; today, if none is given.

    Raises:
        BadRequest: the text is not a day.
    """
    try:
        day = datetime.date.fromisoformat(date) if date else datetime.date.today()
    except ValueError:
        raise BadRequest(
            f"the date '{date}' is not a day; write year, month and day: "
            f"{datetime.date.today().isoformat()}"
        ) from None
    return day.isoformat()


def seal(value: Any) -> str:
    """Hashes plain values by their canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def written(entry: Entry) -> dict[str, Any]:
    """Writes an entry as plain values with a seal over them."""
    plain = asdict(entry) | {"request": described(entry.request)}
    plain = json.loads(json.dumps(plain, default=str))
    return {**plain, "seal": seal(plain)}


def entry_from(values: Mapping[str, Any]) -> Entry:
    """Reads what `written` wrote.

    Raises:
        BadRequest: a value was changed since, or is missing.
    """
    plain = {name: value for name, value in values.items() if name != "seal"}
    if values.get("seal") != seal(plain):
        raise BadRequest(
            f"entry '{plain.get('id')}' of the ledger was changed by hand: it does not match its "
            "seal; restore the file, then revoke the entry and add it anew"
        )
    revoked = plain["revoked"]
    made: dict[str, Any] = {
        **plain,
        "request": request_from(plain["request"]),
        "revoked": None if revoked is None else Revocation(**revoked),
    }
    return Entry(**made)
