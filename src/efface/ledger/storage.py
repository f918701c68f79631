"""``ledger.json``: sealed, so that an edit by hand is found and named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from efface.concepts import Concept, request_from
from efface.errors import BadRequest
from efface.files import read_json_object, write_atomically
from efface.ledger.entries import Entry, entry_from, seal, written
from efface.ledger.rows import Encoder
from efface.methods.uce import Uce

__all__ = ["FILE", "VERSION", "read", "write"]

FILE = "ledger.json"
VERSION = 1
_SOMETHING = [{"concept": {"name": "something"}}]
"""A request must erase something; a list of kept concepts is read as part of one."""


def write(
    folder: Path,
    *,
    base_model: str,
    encoder: Encoder,
    method: Uce,
    keep: tuple[Concept, ...],
    entries: tuple[Entry, ...],
) -> None:
    """Writes all fields of a ledger in one step.

    Raises:
        BadRequest: the folder cannot be written to; what was there survives.
    """
    values: dict[str, Any] = {
        "version": VERSION,
        "base_model": base_model,
        "encoder": encoder.sketches,
        "settings": asdict(method),
        "keep": [asdict(one) for one in keep],
        "entries": [written(entry) for entry in entries],
    }
    plain = json.loads(json.dumps(values, default=str))
    content = json.dumps({**plain, "seal": seal(plain)}, indent=1) + "\n"
    write_atomically(folder / FILE, content.encode())


def read(folder: Path) -> dict[str, Any]:
    """Reads the fields of a ledger by name, as `write` takes them.

    Raises:
        BadRequest: there is none, it was changed by hand, or it is of a newer version.
    """
    try:
        values = read_json_object(folder / FILE)
        return _fields(folder, values)
    except (FileNotFoundError, NotADirectoryError):
        raise BadRequest(
            f"there is no ledger at {folder} (no {FILE} in it); start one with: efface ledger add"
        ) from None
    except BadRequest:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadRequest(f"{folder / FILE} is damaged ({error}); restore it from a copy") from error


def _fields(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    if int(values["version"]) > VERSION:
        raise BadRequest(
            f"{folder / FILE} has version {values['version']} and this efface reads up to "
            f"{VERSION}; update efface"
        )
    entries = tuple(entry_from(each) for each in values["entries"])
    plain = {name: value for name, value in values.items() if name != "seal"}
    if values.get("seal") != seal(plain):
        raise BadRequest(
            f"{folder / FILE} was changed by hand: settings, keep set or the list of entries do "
            "not match its seal; restore it from a copy"
        )
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values["settings"].items()
    }
    return {
        "base_model": values["base_model"],
        "encoder": Encoder(tuple(tuple(row) for row in values["encoder"])),
        "method": Uce(**settings),
        "keep": request_from({"erasures": _SOMETHING, "keep": values["keep"]}).keep,
        "entries": entries,
    }
