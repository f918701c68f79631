"""What a case says, one type for each kind of thing that has a conformance suite."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efface.concepts import Concept, ErasureRequest

PISTOL = Concept(name="pistol", synonyms=("revolver",))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One small run of a method that erases, which its suite repeats from every side."""

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    host: str = "tiny_sd1"
    """A toy of `tests.conftest.host`. A toy whose weights change is another toy: rename it."""
    request: ErasureRequest
    golden: Mapping[str, float]
    """A changed number needs a raised ``revision`` of the method."""
    seconds: float
    """Processor time, which a busy machine does not stretch."""
    slow: bool = False
    """Whether only the slow tests run it."""

    @property
    def name(self) -> str:
        given = "-".join(str(value) for value in self.settings.values())
        return "-".join(part for part in (self.method, self.host, given) if part)


@dataclass(frozen=True, kw_only=True)
class JudgeCase:
    """A judge, how a toy of it is made, and what it can and cannot recognise."""

    judge: str
    settings: Callable[[Path], Mapping[str, Any]]
    """Writes what the judge reads into an empty folder and gives its settings."""
    others: Mapping[str, Any] = field(default_factory=dict)
    """Settings that must give the judge another identity, one at a time."""
    known: Concept = PISTOL
    unknown: Concept | None = None
    """Something it does not know; None: it knows everything."""


@dataclass(frozen=True, kw_only=True)
class MetricCase:
    """A metric with pictures that it must tell apart."""

    metric: str
    pictures: int = 6
    better: Any = None
    """Gives, for pictures, some that must score better than `worse` gives."""
    worse: Any = None
    symmetric: bool = True
    """Whether a distance is the same both ways."""


@dataclass(frozen=True, kw_only=True)
class HostCase:
    """A family's toy, and what users and exports rely on there."""

    host: str
    branches: tuple[str, ...]
    """Keys of what reads text, in order."""
