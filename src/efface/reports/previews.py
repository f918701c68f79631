"""Pictures that a training run drew on the way: how they are named, and those for the page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from efface.registry import stage_names

__all__ = ["BASE", "FOLDER", "Preview", "previews", "stem_of"]

FOLDER = "previews"
BASE = "base"
_STEM = re.compile(r"(?:method-(\d+)-)?step-(\d+)")
_MOST = 24
"""So many pictures fit on a page; of more, as many spread evenly are shown."""


@dataclass(frozen=True, order=True)
class Preview:
    """One picture; the first is from before training and has step 0."""

    turn: int
    """Which of the methods in turn drew it, from 1."""
    step: int
    path: Path

    def caption(self, methods: str) -> str:
        """Says when it was drawn; of several methods, like ``"uce+esd"``, also in which one."""
        if self.step == 0:
            return "before"
        names = stage_names(methods.split("+"))
        named = f"{names[self.turn - 1]}: " if 1 < len(names) >= self.turn else ""
        return f"{named}step {self.step}"


def stem_of(turn: int, step: int) -> str:
    """Names the picture after ``step`` steps, from 1, of the ``turn``-th method, from 1."""
    return f"{f'method-{turn}-' if turn > 1 else ''}step-{step:04}"


def previews(run: Path) -> tuple[Preview, ...]:
    """Lists a run's previews in the order they were drawn; empty when there are none.

    At most 24, with the first and the last one among them.
    """
    found = []
    for path in (run / FOLDER).glob("*.png"):
        if path.stem == BASE:
            found.append(Preview(1, 0, path))
        elif named := _STEM.fullmatch(path.stem):
            found.append(Preview(int(named[1] or 1), int(named[2]), path))
    found.sort()
    if len(found) <= _MOST:
        return tuple(found)
    return tuple(found[round(n * (len(found) - 1) / (_MOST - 1))] for n in range(_MOST))
