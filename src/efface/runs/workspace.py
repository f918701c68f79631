"""Folders that outlive one erasure: a cache of keep sets, and checkpoints of training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Workspace"]


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where an erasure keeps what later ones may need; nothing is stored unless a folder is named.

    Deltas do not depend on it, to the bit.
    """

    cache: Path | str | None = None
    """Remembers keep sets: with the same text encoder, those prompts are not encoded again."""
    checkpoint: Path | str | None = None
    """Holds the newest state of methods that train until they are done; a run that was interrupted
    goes on from there to the same bits."""
    resume: bool = False
    """Start from that checkpoint."""
