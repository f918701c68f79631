"""Scores as rows, one per picture and metric, in a file that grows and survives interruptions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from efface.files import parse_json

__all__ = ["Row", "ScoreBook"]

Row: TypeAlias = tuple[str, str, str]
"""Source key, sample id, and the measure with the instrument that took it."""

_FILE = "scores.jsonl"


@dataclass
class ScoreBook:
    """Finite scores of a store's pictures; NaN is never written, so it is asked again next time.

    Rows lie beside the pictures, in ``<source key>/scores.jsonl``.
    """

    folder: Path
    scores: dict[Row, float] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, sources: Iterable[str]) -> ScoreBook:
        """Reads the rows of some sources; a last line cut short by a kill is ignored."""
        book = cls(folder)
        for source in sources:
            path = folder / source / _FILE
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else ()
            for line in lines:
                book._read(source, line)
        return book

    def add(self, rows: Mapping[Row, float]) -> None:
        """Appends finite scores, in one write per source so that runs side by side do not mix."""
        finite = {row: value for row, value in rows.items() if math.isfinite(value)}
        self.scores.update(finite)
        for source in {row[0] for row in finite}:
            lines = [
                json.dumps([*row[1:], value]) for row, value in finite.items() if row[0] == source
            ]
            path = self.folder / source / _FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as file:
                file.write(("\n" + "\n".join(lines)).encode())

    def values(self, rows: Iterable[Row]) -> list[float]:
        """Looks scores up; NaN where there is none."""
        return [self.scores.get(row, math.nan) for row in rows]

    def _read(self, source: str, line: str) -> None:
        try:
            sample, measure, value = parse_json(line)
            self.scores[source, sample, measure] = float(value)
        except (ValueError, TypeError):
            return
