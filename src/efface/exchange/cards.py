"""The Erasure Cards that a run folder holds of its own delta, and not of an older one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from efface.files import parse_json

__all__ = ["CARDS", "cards_of"]

CARDS = ("card.md", "card.json")
_NAMED = re.compile(r"\bdelta `(?P<id>[0-9a-f]{16})`")
"""How ``card.md`` names the delta that was measured."""


def cards_of(folder: Path, delta: str) -> tuple[list[Path], list[Path]]:
    """Finds the cards of a run, and those in its folder that are of another delta.

    A card that names no delta goes with the others: with one of another delta it is no card of
    this one either.

    Args:
        folder: the run's.
        delta: id of the delta that the run holds.
    """
    held = [folder / name for name in CARDS if (folder / name).is_file()]
    named = {_delta_of(card) for card in held} - {None}
    return (held, []) if named <= {delta} else ([], held)


def _delta_of(card: Path) -> str | None:
    """Reads which delta a card is of; a damaged card is of no delta of this folder."""
    try:
        text = card.read_text(encoding="utf-8")
        if card.suffix == ".md":
            found = _NAMED.search(text)
            return found["id"] if found else None
        values: Any = parse_json(text, card.name)
    except (OSError, ValueError):
        return "damaged"
    identity = values.get("identity") if isinstance(values, dict) else None
    named = identity.get("delta") if isinstance(identity, dict) else None
    return None if named is None else str(named)
