"""Scores as rows, one per picture and metric, in a file that grows and survives interruptions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from efface.errors import BadRequest
from efface.files import parse_json

__all__ = ["Measure", "Row", "ScoreBook"]

_FILE = "scores.jsonl"


class Measure(NamedTuple):
    """What is asked about a picture, and by whom."""

    name: str
    """For people, such as ``presence by emoji-judge@1``."""
    instrument: str
    """Hash of the instrument's content and settings: two instruments of one name are two."""


class Row(NamedTuple):
    """What a score belongs to."""

    source: str
    """Key of what drew the picture."""
    sample: str
    picture: str
    """Hash of the picture's pixels: another picture in its place has no score yet."""
    measure: Measure


@dataclass
class ScoreBook:
    """Finite scores of a store's pictures; NaN is never written, so it is asked again next time.

    Rows lie beside the pictures, in ``<source key>/scores.jsonl``. Rows of older versions do not
    say which instrument gave them, and are not used.
    """

    folder: Path
    scores: dict[Row, float] = field(default_factory=dict)
    nameless: int = 0
    """Rows that name no instrument."""

    @classmethod
    def open(cls, folder: Path, sources: Iterable[str]) -> ScoreBook:
        """Reads the rows of some sources; a last line cut short by a kill is ignored."""
        book = cls(folder)
        for source in sources:
            path = folder / source / _FILE
            text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
            for line in text.splitlines():
                book._read(source, line)
        return book

    def add(self, rows: Mapping[Row, float]) -> None:
        """Appends finite scores, in one write per source so that runs side by side do not mix."""
        finite = {row: value for row, value in rows.items() if math.isfinite(value)}
        self.scores.update(finite)
        for source in {row.source for row in finite}:
            lines = [_line(row, value) for row, value in finite.items() if row.source == source]
            path = self.folder / source / _FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as file:
                file.write(("\n" + "\n".join(lines)).encode())

    def values(self, rows: Iterable[Row]) -> list[float]:
        """Looks scores up; NaN where there is none."""
        return [self.scores.get(row, math.nan) for row in rows]

    def _read(self, source: str, line: str) -> None:
        try:
            found = parse_json(line, "a row")
            if isinstance(found, list):
                self.nameless += 1
                return
            measure = Measure(found["measure"], found["instrument"])
            value = float(found["value"])
            if math.isfinite(value):
                self.scores[Row(source, found["sample"], found["picture"], measure)] = value
        except (BadRequest, ValueError, TypeError, KeyError):
            return


def _line(row: Row, value: float) -> str:
    told = {
        "sample": row.sample,
        "picture": row.picture,
        "measure": row.measure.name,
        "instrument": row.measure.instrument,
        "value": value,
    }
    return json.dumps(told)
