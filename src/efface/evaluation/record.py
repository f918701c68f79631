"""What an evaluation found, as one frozen object that goes to JSON and back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from efface.contracts import Better, Estimate, JudgeCard, ModelKind, Role, Sample
from efface.errors import BadRequest, MissingInput
from efface.evaluation.encoding import decoded, encoded
from efface.evaluation.identity import TensorChange
from efface.evaluation.images import ImageStore, Source
from efface.evaluation.limits import Limits
from efface.evaluation.outcome import Outcome, outcome_of
from efface.files import read_json_object, write_atomically

__all__ = [
    "FILE",
    "FORMAT",
    "MAIN_METRICS",
    "Control",
    "Cost",
    "Evaluation",
    "Measurement",
    "Sighting",
    "Verdict",
]

Verdict: TypeAlias = Literal["valid", "inconclusive", "invalid", "not measured"]

MAIN_METRICS: dict[ModelKind, str] = {
    "generator": "presence",
    "classifier": "recognised",
    "recogniser": "recognised",
    "detector": "found",
}
"""The rate that decides what became of an erasure, by kind of model: the judge sees it in the
picture; the model gives the picture its true name; the model finds the thing in its place."""
FILE = "evaluation.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One metric in one role: before, after, and the paired change."""

    metric: str
    unit: str
    better: Better
    """The wanted direction in this role."""
    role: Role
    concept: str | None = None
    """Restricts the role to one concept; None: all of the role."""
    before: Estimate | None = None
    after: Estimate | None = None
    change: Estimate | None = None
    """After minus before on the same samples; for set metrics the distance itself."""
    p_value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Control:
    """A check of the judge, of the edited model or of the edit."""

    name: Literal["positive", "negative", "model", "edit"]
    concept: str
    """Which one the judge was asked about; empty for checks of the model and the edit."""
    passed: bool
    estimate: Estimate | None
    requirement: str
    """What had to hold, in words."""
    details: tuple[str, ...] = ()
    """What was found instead, where that is more than a share of pictures."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What it took; pictures found in the store count with what they cost when drawn."""

    pictures: int
    seconds: float
    network_evaluations: float
    peak_bytes: int
    """Largest memory of the process up to then."""


@dataclass(frozen=True)
class Sighting:
    """In how many pictures of a concept's prompts a judge sees one thing before all others."""

    concept: str
    """What was to go."""
    name: str
    """What is seen; empty: nothing that the judge knows."""
    before: int
    after: int
    count: int
    """Pictures looked at, before and after alike."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything a report needs; pictures stay in the store and are named, not held."""

    suite: str
    """Name and version, such as ``emoji@1``."""
    model_kind: ModelKind = "generator"
    """What kind of model was measured."""
    judge: JudgeCard
    """That of `efface.evaluation.looking.NOBODY` where no judge was asked."""
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    """Why the verdict is not "valid"; empty when it is."""
    measurements: tuple[Measurement, ...] = ()
    """Empty when the verdict is "invalid", since no number is better than a wrong one, and when it
    is "not measured"."""
    controls: tuple[Control, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    """By "before" and "after"."""
    changed: tuple[TensorChange, ...] = ()
    samples: tuple[Sample, ...] = ()
    before: Source
    after: Source | None = None
    """None when only the unedited model was measured."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """The delta's own account of method, settings, request and seed."""
    instruments: Mapping[str, str] = field(default_factory=dict)
    """What scored, by "judge", "leftover", "clip" and "features"."""
    leftover_judge: JudgeCard | None = None
    """The card of what looked for leftovers; None where nothing did."""
    identities: Mapping[str, str] = field(default_factory=dict)
    """Hashes of their content and settings, by the same names."""
    limits: Limits = field(default_factory=Limits)
    """What counts as erased and as lost."""
    sightings: tuple[Sighting, ...] = ()
    """What prompts of what was to go show, most frequent first; empty where the judge cannot name
    what it sees."""
    answers: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """What each picture scored, in the samples' order, by "<metric> before" and "<metric> after";
    NaN where there was nothing to score."""
    notes: tuple[str, ...] = ()
    """What was set aside: pictures and scores that were not those of this model and judge."""
    store: Path
    """Folder of the pictures; in the file it is relative to the file."""
    created: str = ""
    """Time in UTC, ISO 8601."""
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def main_metric(self) -> str:
        """Names the rate that says whether something is there: it decides the outcome."""
        return MAIN_METRICS[self.model_kind]

    @cached_property
    def outcome(self) -> Outcome | None:
        """What became of the erasure; None when only the unedited model was measured."""
        return outcome_of(self)

    @property
    def parameters_touched(self) -> int:
        """Counts the numbers in all tensors that the delta changes."""
        return sum(change.elements for change in self.changed)

    @property
    def erased(self) -> tuple[str, ...]:
        """Names what was to go, in the suite's order."""
        names = (one.concept.name for one in self.samples if one.role == "erased" and one.concept)
        return tuple(dict.fromkeys(names))

    def find(self, metric: str, role: Role, concept: str | None = None) -> Measurement | None:
        """Gives one measurement, or None when it was not made."""
        for one in self.measurements:
            if (one.metric, one.role, one.concept) == (metric, role, concept):
                return one
        return None

    def picture(self, sample: Sample, *, edited: bool) -> Path | None:
        """Says where a sample's picture is; None when it was not drawn or is gone."""
        source = self.after if edited else self.before
        path = None if source is None else ImageStore(self.store).path(source, sample)
        return path if path is not None and path.is_file() else None

    def save(self, folder: Path) -> Path:
        """Writes ``evaluation.json`` in one step and returns its path.

        Raises:
            BadRequest: the place cannot be written to.
        """
        folder.mkdir(parents=True, exist_ok=True)
        store = Path(os.path.relpath(self.store, folder))
        told = {**encoded(replace(self, store=store)), "outcome": encoded(self.outcome)}
        text = json.dumps(told, indent=1, allow_nan=False)
        write_atomically(folder / FILE, text.encode())
        return folder / FILE

    @classmethod
    def load(cls, folder: Path) -> Evaluation:
        """Reads ``evaluation.json`` from its folder.

        Raises:
            MissingInput: there is none.
            BadRequest: it is not JSON, or was written by a newer version.
        """
        path = folder / FILE if folder.is_dir() else folder
        try:
            data = read_json_object(path, advice="run the evaluation again")
            if data.get("format", 0) > FORMAT:
                raise BadRequest(f"{path} was written by a newer version of efface; update efface")
            found = decoded(cls, data)
        except FileNotFoundError:
            raise MissingInput(f"there is no {path}; run an evaluation first") from None
        except (ValueError, TypeError, AttributeError) as error:
            if isinstance(error, BadRequest):
                raise
            raise BadRequest(f"{path} is broken ({error}); run the evaluation again") from error
        return replace(found, store=Path(os.path.normpath(path.parent / found.store)))
