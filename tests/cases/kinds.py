"""What a case says, one type for each kind of thing that has a conformance suite."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

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
class ForgettingCase:
    """One short run of a method that makes a toy forget one of six classes of pictures."""

    method: str
    kind: str
    """Of the model: a key of `efface.hosts.vision_families.VISION`."""
    architecture: str | None = None
    """Class of the network; None: the kind's usual toy."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    change: float
    """Relative change of all touched weights; a changed number needs a raised ``revision``."""
    gone: bool = True
    """Whether the class is no longer recognised afterwards."""
    within: float = 1e-3
    """How far from it, as a share, the change may be."""

    @property
    def name(self) -> str:
        return f"{self.method}-{self.architecture or self.kind}"


@dataclass(frozen=True, kw_only=True)
class AttackCase:
    """One short run of an attack on a toy whose erasure changes what the attack works on."""

    attack: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    method: str = "uce"
    """What erases; its case in `tests.cases.closed` or `trained` on ``tiny_sd1`` says how."""
    silent: bool = False
    """Whether it has nothing to try on that erasure, so that it makes no attempt."""


@dataclass(frozen=True, kw_only=True)
class GuideCase:
    """A guide that changes every picture of a short run on a toy, and what it costs."""

    guide: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """One of them may be ``negative_on``, which the suite sets."""
    off: Mapping[str, Any] | None = None
    """Settings that turn it off; None: no settings do."""
    evaluations: int
    """Of the network, for a picture of four steps with guidance, which is 8 without guides."""

    @property
    def name(self) -> str:
        given = "-".join(str(value) for value in self.settings.values())
        return "-".join(part for part in (self.guide, given) if part)


@dataclass(frozen=True, kw_only=True)
class SearchCase:
    """One short run of a search for a forget set among toy pictures."""

    search: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """One of them is ``easiest``, which the suite sets."""

    @property
    def name(self) -> str:
        given = "-".join(str(value) for value in self.settings.values())
        return "-".join(part for part in (self.search, given) if part)


@dataclass(frozen=True, kw_only=True)
class JudgeCase:
    """A judge, how a toy of it is made, and what it can and cannot recognise."""

    judge: str
    settings: Callable[[Path], Mapping[str, Any]] = lambda _: {}
    """Writes what the judge reads into an empty folder; gives the judge's settings."""
    changed: tuple[Mapping[str, Any], ...] = ()
    """Settings under which it answers otherwise, and so is another judge."""
    known: Concept = PISTOL
    unknown: Concept | None = None
    """Something it does not know; None: it knows everything."""


@dataclass(frozen=True, kw_only=True)
class MetricCase:
    """A metric, and pictures that it must tell apart."""

    metric: str
    better: Callable[[Tensor], Tensor]
    """Makes of pictures some that score better than those that `worse` makes."""
    worse: Callable[[Tensor], Tensor]
    symmetric: bool = True
    """Whether a distance is the same both ways."""


@dataclass(frozen=True, kw_only=True)
class HostCase:
    """A family's toy, or a variant with another schedule, and what its own pipeline says there."""

    host: str
    """A toy of `tests.conftest.host`: the family's key and perhaps a variant."""
    branches: tuple[str, ...]
    """Keys of what reads text, in order."""
    encoded: Callable[[Any, str], tuple[Any, Any]]
    """Asks the pipeline for the rows, and the pooled row or None, that its denoiser reads."""
    sized: bool = False
    """Whether the pipeline must be told the toy's size, which it would not guess."""
    drawn: Callable[..., Any] | None = None
    """Asks the pipeline for latents at the end: ``(pipe, start, guidance, **options)``; None: its
    own names for these."""
    guidance: float = 3.0
    """What it is drawn with; 1 where the pipeline asks nothing without the prompt."""
    slow: bool = False
    """Whether only the slow tests run the whole suite on it."""

    @property
    def family(self) -> str:
        return self.host.split("_")[1]


@dataclass(frozen=True)
class VisionCase:
    """A class of networks that read pictures, at toy size."""

    kind: str
    """A key of `efface.hosts.vision_families.VISION`."""
    architecture: str
    pairs: int
    """How many feed-forward networks its blocks have; 0 where a method that needs them refuses."""
