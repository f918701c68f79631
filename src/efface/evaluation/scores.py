"""Scores as rows, one per picture and metric, in a file that grows and survives interruptions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

__all__ = ["Row", "ScoreBook"]

Row: TypeAlias = tuple[str, str, str]
"""Source key, sample id, and the measure with the instrument that took it."""


@dataclass
class ScoreBook:
    """All finite scores of a store; NaN is never written, so it is asked again next time."""

    path: Path
    scores: dict[Row, float] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> ScoreBook:
        """Reads the rows there are; a last line cut short by a kill is ignored."""
        book = cls(path)
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                book._read(line)
        return book

    def add(self, rows: Mapping[Row, float]) -> None:
        """Appends finite scores to the file."""
        finite = {row: value for row, value in rows.items() if math.isfinite(value)}
        if not finite:
            return
        self.scores.update(finite)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps([*row, value]) for row, value in finite.items())
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + "\n".join(lines))

    def values(self, rows: Iterable[Row]) -> list[float]:
        """Looks scores up; NaN where there is none."""
        return [self.scores.get(row, math.nan) for row in rows]

    def _read(self, line: str) -> None:
        try:
            source, sample, measure, value = json.loads(line)
            self.scores[source, sample, measure] = float(value)
        except (ValueError, TypeError):
            return
