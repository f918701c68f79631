"""Folders that outlive one erasure: a cache of keep sets, and checkpoints of training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface.errors import BadRequest
from efface.plain_values import place

__all__ = ["Workspace"]


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where an erasure keeps what later ones may need; nothing is stored unless a folder is named.

    Deltas do not depend on it, to the bit.

    Raises:
        BadRequest: a place is no name of a folder.
    """

    cache: Path | str | None = None
    """Remembers keep sets: with the same text encoder, those prompts are not encoded again."""
    checkpoint: Path | str | None = None
    """Holds the newest state of methods that train until they are done; a run that was interrupted
    goes on from there to the same bits."""
    resume: bool = False
    """Start from that checkpoint."""

    def __post_init__(self) -> None:
        for name in ("cache", "checkpoint"):
            if getattr(self, name) is not None:
                place(name, getattr(self, name))

    @classmethod
    def of(cls, given: Any) -> Workspace:
        """Gives the workspace that was given, or one without folders.

        Raises:
            BadRequest: it is something else.
        """
        if given is None or isinstance(given, cls):
            return given or cls()
        raise BadRequest(
            f"workspace is {given!r:.60}; give efface.Workspace(cache=..., checkpoint=...)"
        )
