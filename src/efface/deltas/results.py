"""What an erasure hands back: the delta, its curves, its cost and what the detectors saw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from efface.deltas.delta import Delta
from efface.deltas.storage import FILE_NAME
from efface.errors import BadDelta
from efface.files import parse_json, read_json_object, write_atomically
from efface.plain_values import place

__all__ = ["CURVES", "RECORD", "ErasureResult", "read_curves"]

CURVES = "curves.jsonl"
RECORD = "run.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True, eq=False)
class ErasureResult:
    """The outcome of one erasure."""

    delta: Delta
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Named figures, one value per step; of methods in turn, under names like ``"esd: erase"``."""
    seconds: float
    peak_bytes: int
    """Most memory in use at one time: of the GPU if the model is there, else of this process."""
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    """Conditioning of the solve and what the no-op and collapse detectors measured."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """What repeats it, as plain values; see `efface.runs.recipe`."""
    command: str = ""
    """What is typed to repeat it; empty where nothing says how it came about."""
    made: str = field(default_factory=_now)
    """When, ISO 8601 in UTC; empty in records of before, which did not say it."""

    def save(self, folder: Path | str) -> None:
        """Writes ``delta.safetensors``, ``run.json`` and ``curves.jsonl``, each in one step.

        Raises:
            BadRequest: the folder cannot be written to; older files there survive.
        """
        folder = place("the folder", folder)
        lines = [json.dumps({"step": step} | row) for step, row in enumerate(self._rows())]
        self.delta.save(folder / FILE_NAME)
        write_atomically(folder / CURVES, "".join(line + "\n" for line in lines).encode())
        written = hashlib.sha256((folder / FILE_NAME).read_bytes()).hexdigest()
        write_atomically(folder / RECORD, self._run_json(written).encode())

    def _rows(self) -> list[dict[str, float]]:
        """Gives the figures of each step; those of a stage with fewer steps end before others."""
        count = max(map(len, self.curves.values()), default=0)
        return [
            {name: values[step] for name, values in self.curves.items() if step < len(values)}
            for step in range(count)
        ]

    def _run_json(self, sha256: str) -> str:
        run: dict[str, Any] = {
            "delta": self.delta.id,
            "made": self.made,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "diagnostics": dict(self.diagnostics),
        }
        run |= asdict(self.delta.provenance) | {"sha256": {FILE_NAME: sha256}}
        if self.command:
            run["command"] = self.command
        if self.recipe:
            run["recipe"] = dict(self.recipe)
        return json.dumps(run, indent=2, default=str) + "\n"

    @classmethod
    def load(cls, folder: Path | str) -> ErasureResult:
        """Reads what `save` wrote.

        Raises:
            BadRequest: no folder can have that name.
            BadDelta: a file is missing, damaged, or belongs to another run.
        """
        folder = place("the folder", folder)
        delta = Delta.load(folder)
        try:
            run = read_json_object(folder / RECORD)
            figures = {name: run[name] for name in ("seconds", "peak_bytes", "diagnostics")}
        except (OSError, ValueError, KeyError) as error:
            raise _incomplete(folder, error) from error
        if run.get("delta") != delta.id:
            raise BadDelta(f"run.json in {folder} is of another delta; run the erasure again")
        return cls(
            delta=delta,
            curves=read_curves(folder),
            **figures,
            recipe=run.get("recipe", {}),
            command=str(run.get("command", "")),
            made=str(run.get("made", "")),
        )


def read_curves(folder: Path) -> dict[str, tuple[float, ...]]:
    """Reads the curves of the run in a folder.

    Raises:
        BadDelta: their file is missing or damaged.
    """
    try:
        lines = (folder / CURVES).read_text(encoding="utf-8").splitlines()
        steps = [dict(parse_json(line, CURVES)) for line in lines]
    except (OSError, TypeError, ValueError) as error:
        raise _incomplete(folder, error) from error
    names = [name for name in (steps[0] if steps else {}) if name != "step"]
    return {name: tuple(step[name] for step in steps if name in step) for name in names}


def _incomplete(folder: Path, error: Exception) -> BadDelta:
    return BadDelta(f"the run in {folder} is not complete ({error}); run it again")
