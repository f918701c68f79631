"""What methods, judges, metrics and models must offer; contracts hold no algorithm."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    runtime_checkable,
)

# At run time too: `Sample` is read back from JSON by its types.
from efface.concepts import Concept, ErasureRequest, wordings

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor, nn

    from efface.deltas.results import ErasureResult
    from efface.guiding.course import Course, GuidedRun
    from efface.revival.attempts import Attempt
    from efface.revival.target import Target
    from efface.selection.forget_sets import ForgetSet

__all__ = [
    "Access",
    "Attack",
    "Attempts",
    "Better",
    "Candidates",
    "Eraser",
    "Estimate",
    "ForgetSetSearch",
    "Guide",
    "ImageMetric",
    "Instrument",
    "Judge",
    "JudgeCard",
    "Method",
    "ModelKind",
    "Monitor",
    "Paper",
    "Role",
    "Sample",
    "SetMetric",
    "Suite",
    "TextToImage",
    "Work",
    "silent",
]

Going = Literal["erased", "synonym", "paraphrase", "earlier"]
Staying = Literal["neighbour", "kept", "missing", "composition", "general"]
Role = Literal[Going, Staying]
"""What a picture stands for. Composition: several kept things at once. Of
recognisers: earlier is what earlier requests erased, missing what training had no picture of."""
ModelKind = Literal["generator", "classifier", "recogniser", "detector"]
"""What a model does: draws pictures of prompts, names what is in a picture, tells individuals
apart, or finds things and where they are."""
Better = Literal["higher", "lower"]
Instrument = Literal["judge", "leftover", "clip", "features", "pixels"]
"""What a metric is built from; clip has features of text and pictures, features is a function."""
Access = Literal[
    "pipeline", "text", "text_encoder", "embeddings", "latents", "gradients", "weights"
]
"""What an attacker must have: a pipeline to run and to change parts of; prompts; a text encoder's
weights; embeddings in place of tokens; latents or pictures to start from; gradients; or weights."""
Attempts: TypeAlias = "Generator[Sequence[Attempt], frozenset[int], None]"
"""Yields attempts, at most one per trial at a time, and is sent the trials that are still open."""
Monitor = Callable[[int, int, Mapping[str, float]], None]
"""Called once per step with the step (from 0), the number of steps, and named figures."""

ModelT = TypeVar("ModelT")


def silent(step: int, total: int, figures: Mapping[str, float]) -> None:
    """Watches nothing; the default monitor."""


class TextToImage(Protocol):
    """What methods may touch of a text-to-image pipeline; diffusers pipelines fit structurally."""

    unet: nn.Module
    vae: nn.Module
    text_encoder: nn.Module
    tokenizer: Any
    scheduler: Any


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    arxiv: str
    year: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a closed form reads and solves; plans count it."""

    prompts: frozenset[str]
    """Prompts that are encoded."""
    rounds: int | None = None
    """Rounds of solves that each need the layers' joint factor; None: a single solve."""
    reweightings: int = 0
    """Solves between which prompts are weighed anew."""


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Facts as class variables, settings as fields, presets by name."""

    name: ClassVar[str] = ""
    """What it is called in commands and records: the name of its file or entry point."""
    weakened_by: ClassVar[tuple[str, ...]] = ()
    """What makes its edits weaker, such as "raise ridge", for whoever wrecked a model."""
    strengthened_by: ClassVar[tuple[str, ...]] = ()
    """What makes its edits stronger, for whoever changed nothing."""
    paper: ClassVar[Paper]
    revision: ClassVar[int] = 1
    """Raised whenever the same settings and seed give another result."""

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """Gives the papers' numbers by name; a method without published numbers has none."""
        return {}


class Eraser(Method, Generic[ModelT]):
    """Takes concepts out of a model and returns the change; the model stays as it was."""

    edits: ClassVar[frozenset[str]]
    """Components it may change, such as ``unet`` or ``text_encoder``."""
    families: ClassVar[frozenset[str]] = frozenset({"sd1", "sd2"})
    """Families of models it edits, by their keys in `efface.hosts.families.FAMILIES`."""
    reads_pictures: ClassVar[bool] = False
    """Whether it learns from pictures of what is erased; others refuse them."""
    streams: ClassVar[bool] = False
    """Whether it reads no more of the denoiser than what reads text: it need not be loaded."""

    @abstractmethod
    def erase(
        self,
        model: ModelT,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Makes the delta that erases what the request names."""

    def work(self, request: ErasureRequest) -> Work:
        """Says what a closed form reads and solves for a request."""
        concepts = [*(each.concept for each in request.erasures), *request.keep]
        return Work(prompts=frozenset(text for each in concepts for text in wordings(each)) | {""})


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Tries to bring an erased concept back; settings are fields.

    An attack does not draw or judge: it says what to draw (an `Attempt`), and is told which trials
    are still open. Whoever runs it stops a trial that succeeded or spent its budget, and ends the
    attack when none is left.
    """

    name: ClassVar[str] = ""
    """What it is called in commands and records: the name of its file or entry point."""
    access: ClassVar[Access]
    paper: ClassVar[Paper | None] = None
    revision: ClassVar[int] = 1
    """Raised whenever the same settings and seed give other attempts."""
    families: ClassVar[frozenset[str]] = frozenset({"sd1", "sd2", "sdxl", "sd3", "flux"})
    """Families of models it attacks."""
    needs_name: ClassVar[bool] = False
    """Whether prompts must hold the concept's name. Others are tested on the unedited model with
    prompts without it, where the attack alone can bring the concept in."""
    learns_once: ClassVar[bool] = False
    """Whether what it learns serves all trials at once, such as training of weights. Each open
    trial is then counted all of it, so that what a revival costs does not depend on how many trials
    there are: one that stays open to the end was counted all evaluations, and the sum over trials
    is more than were run."""

    @abstractmethod
    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Attacks every trial of a target together.

        Args:
            target: the edited model, its trials, and what may be asked of the unedited one.
            generator: of all draws.
        """


class Guide(Method):
    """Steers sampling and changes no weight; settings are fields."""

    families: ClassVar[frozenset[str]] = frozenset({"sd1", "sd2", "sdxl", "sd3", "flux"})
    """Families of models whose sampling it steers."""
    combines: ClassVar[bool] = False
    """Whether it says what the scheduler steps along; of a run's guides at most one does."""
    steers_by: ClassVar[tuple[str, ...]] = ()
    """Settings of which one must be given, else there is nothing to steer by."""

    @abstractmethod
    def begin(self, run: GuidedRun) -> Course | None:
        """Gives the guide's part in one run; None where its settings turn it off.

        Raises:
            BadRequest: it cannot work here, such as for want of a word, or of guidance.
        """


@runtime_checkable
class Candidates(Protocol):
    """What may be forgotten: pictures, classes or prompts, with the erasure that forgets them."""

    @property
    def names(self) -> Sequence[str]:
        """What each is called, by number."""

    @property
    def weighs(self) -> bool:
        """Whether the erasure takes weights between 0 and 1; others erase sets."""

    def __len__(self) -> int:
        """Counts them."""

    def erased(
        self, weights: Float[Tensor, " n"], *, generator: torch.Generator, start: Any = None
    ) -> AbstractContextManager[Any]:
        """Erases candidates until the ``with`` block ends, which puts the model back bit for bit.

        Args:
            weights: how much each is erased: 1 wholly, 0 not at all.
            generator: of all draws.
            start: what another block gave, to go on from its model; None: from the unedited one.
        """

    def losses(self) -> Float[Tensor, " n"]:
        """Gives each candidate's loss under the model as it is now; low: it is still there."""


class ForgetSetSearch(Method):
    """Finds the candidates that are hardest to forget; settings are fields.

    A search knows neither models nor data: candidates erase some of themselves by whatever method
    they were made with, and give the losses of all under the result.
    """

    @abstractmethod
    def search(
        self,
        candidates: Candidates,
        size: int,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ForgetSet:
        """Finds a set of a size.

        Args:
            candidates: of which the set is one part; their model is left as it was.
            size: how many are in the set.
            generator: of all draws.
            monitor: called once a round.
        """


@dataclass(frozen=True)
class Sample:
    """One picture to generate: a prompt, a seed, and the role it plays in the evaluation."""

    prompt: str
    seed: int
    role: Role
    concept: Concept | None = None
    """The thing that would be judged in the picture."""
    style: Concept | None = None
    """A second thing (of kind ``style``) that must be there too."""
    others: tuple[Concept, ...] = ()
    """What must be there beside the concept, in a picture of several things."""

    @property
    def subject(self) -> str:
        """Names all that must be there: "cat and dog"; empty where nothing would be judged."""
        return " and ".join(one.name for one in (self.concept, *self.others) if one is not None)

    @property
    def id(self) -> str:
        """Sixteen hex digits that depend on every field and on nothing else."""
        named = {key: value for key, value in asdict(self).items() if key != "others" or value}
        text = json.dumps(named, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Estimate:
    """A measured number with its interval; rates are 0 to 1 and carry their hits."""

    value: float
    low: float
    high: float
    count: int
    hits: int | None = None


@dataclass(frozen=True)
class JudgeCard:
    """What is known about a judge: an instrument has error rates."""

    name: str
    version: str
    threshold: float
    """Presence at or above this counts as a hit."""
    true_positive_rate: Estimate
    false_positive_rate: Estimate
    notes: str = ""
    leftovers_missed: Mapping[str, Estimate] = field(default_factory=dict)
    """Share of leftovers of erased things, as people see them, that it misses, by style; empty:
    nobody has measured it."""


class Judge(Protocol):
    """Says how likely it is that a concept is in a picture."""

    @property
    def card(self) -> JudgeCard:
        """The judge's identity and error rates; a rate with count 0 is unknown."""

    def knows(self, concept: Concept) -> bool:
        """Says whether the judge can recognise this concept at all."""

    def presence(self, images: Float[Tensor, "n 3 h w"], concept: Concept) -> Float[Tensor, " n"]:
        """Gives one probability per image; pixels are 0 to 1, on the CPU."""


class ImageMetric(Protocol):
    """One number per image; NaN means not scored. Built from the instrument that it uses."""

    name: ClassVar[str]
    unit: ClassVar[str]
    better: ClassVar[Better]
    uses: ClassVar[Instrument]
    threshold: float | None
    """Scores at or above this are hits and are reported as a rate; None: reported as a mean."""
    reverses: ClassVar[bool]
    """Whether what is better turns around for prompts of the erased concept."""

    def applies(self, sample: Sample) -> bool:
        """Says whether there is anything to score in this sample."""

    def scores(
        self, images: Float[Tensor, "n 3 h w"], samples: Sequence[Sample]
    ) -> Float[Tensor, " n"]:
        """Scores each image against its sample; pixels are 0 to 1."""


class SetMetric(Protocol):
    """One number for two sets of images. Built from the instrument that it uses."""

    name: ClassVar[str]
    unit: ClassVar[str]
    better: ClassVar[Better]
    uses: ClassVar[Instrument]

    def distance(
        self, images: Float[Tensor, "n 3 h w"], reference: Float[Tensor, "m 3 h w"]
    ) -> Estimate:
        """Measures how far the images are from the reference; pixels are 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What is generated and measured; any change that can move a number raises ``version``."""

    name: str
    version: int
    samples: tuple[Sample, ...]
    judge: str
    image_metrics: tuple[str, ...] = ()
    set_metrics: tuple[str, ...] = ()
    steps: int = 25
    """Denoising steps per picture, with the pipeline's own scheduler."""
    guidance: float = 7.5
    """Scale of classifier-free guidance."""
