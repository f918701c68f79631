"""Safe latent diffusion: takes from guidance what leads to concepts (SLD, CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Guide, Paper
from efface.errors import BadRequest
from efface.guiding.course import Branch, Course, Read, Span, require_span

if TYPE_CHECKING:
    from efface.diffusion.sampling import Visit
    from efface.guiding.course import GuidedRun

__all__ = ["SafeLatentDiffusion", "concept_guidance"]


@dataclass(frozen=True, kw_only=True)
class SafeLatentDiffusion(Guide):
    """Takes from guidance, element by element, what leads to concepts (equations 3 to 8).

    With ``e_0``, ``e_p`` and ``e_c`` the predictions for the empty prompt, the prompt and a
    concept: ``m = min(1, strength |e_p - e_c|)`` where ``e_p - e_c < threshold``, else 0;
    ``g = m (e_c - e_0) + momentum_scale v``; ``v`` becomes ``momentum_decay v + (1 -
    momentum_decay) g``; after the warm-up ``e = e_0 + w (e_p - e_0 - g)``.

    Costs one evaluation per step and concept beside the two of guidance; none before the warm-up
    is over if there is no momentum. The test is signed, as in the released code: where the prompt's
    prediction is below the concept's by any amount, the element is guided.

    Differs from the paper:
        ``min``, as released; the paper prints ``max``. Several concepts are summed, each with its
        own ``m``, where one text of many topics dilutes all. There is no text by default.
    """

    name: ClassVar[str] = "sld"
    paper: ClassVar[Paper] = Paper(
        "Safe Latent Diffusion: Mitigating Inappropriate Degeneration in Diffusion Models",
        "2211.05105",
        2023,
    )
    combines: ClassVar[bool] = True
    steers_by: ClassVar[tuple[str, ...]] = ("concepts",)

    concepts: tuple[str, ...] = ()
    """What to avoid, each in words of its own."""
    warm_up: float = 0.2
    """Share of the run after which concepts are taken out; momentum is built before."""
    strength: float = 1000.0
    """How soon elements are guided wholly: at a difference of one by this. 0: off."""
    threshold: float = 0.01
    """Elements are guided where the prompt's prediction exceeds the concept's by less than this."""
    momentum_scale: float = 0.3
    """Weight of the momentum, 0 to 1; 0: none."""
    momentum_decay: float = 0.4
    """Share of the momentum that is left after a step."""
    negative_on: Branch = "unedited"
    """Which model predicts for the concepts, while a delta is applied: unedited or edited."""

    def __post_init__(self) -> None:
        require_span(self.warm_up)
        if self.strength < 0:
            raise BadRequest(f"strength is {self.strength}; give 0, which is off, or more")
        for field in ("momentum_scale", "momentum_decay"):
            if not 0 <= getattr(self, field) <= 1:
                raise BadRequest(f"{field} is {getattr(self, field)}; give a share, 0 to 1")

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """Gives the four of the released code, whose runs have 50 steps."""
        return {
            "weak": cls(
                warm_up=0.3, strength=20, threshold=0.0, momentum_scale=0.0, momentum_decay=0.0
            ),
            "medium": cls(),
            "strong": cls(
                warm_up=0.14,
                strength=2000,
                threshold=0.025,
                momentum_scale=0.5,
                momentum_decay=0.7,
            ),
            "max": cls(
                warm_up=0.0, strength=5000, threshold=1.0, momentum_scale=0.5, momentum_decay=0.7
            ),
        }

    def begin(self, run: GuidedRun) -> Course | None:
        """Encodes the concepts; it is off at strength 0."""
        if not self.strength:
            return None
        span, scale = run.span(self.name, self.warm_up), run.scale(self.name)
        reads = [run.read(concept, self.negative_on) for concept in self.concepts]
        return _Safe(self, reads, span, scale)


class _Safe(Course):
    def __init__(
        self, guide: SafeLatentDiffusion, reads: Sequence[Read], span: Span, scale: float
    ) -> None:
        self.reads, self._guide, self._span, self._scale = tuple(reads), guide, span, scale
        self._momenta: dict[int, Tensor] = {}

    def wants(self, index: int) -> Sequence[int]:
        needed = index in self._span or self._guide.momentum_scale
        return range(len(self.reads)) if needed else ()

    def combine(
        self, visit: Visit, answers: dict[int, Float[Tensor, "n c h w"]]
    ) -> Float[Tensor, "n c h w"] | None:
        if not answers:
            return None
        e_0, e_p = visit.predictions()
        guide, taken = self._guide, torch.zeros_like(e_p)
        for number, e_c in answers.items():
            v = self._momenta.get(number, torch.zeros_like(e_p))
            g = concept_guidance(e_0, e_p, e_c, strength=guide.strength, threshold=guide.threshold)
            g = g + guide.momentum_scale * v
            self._momenta[number] = guide.momentum_decay * v + (1 - guide.momentum_decay) * g
            taken = taken + g
        if visit.index not in self._span:
            return None
        return e_0 + self._scale * (e_p - e_0 - taken)


def concept_guidance(
    unconditional: Float[Tensor, "*shape"],
    conditional: Float[Tensor, "*shape"],
    concept: Float[Tensor, "*shape"],
    *,
    strength: float,
    threshold: float,
) -> Float[Tensor, "*shape"]:
    """Gives what leads to a concept, element by element, without momentum: ``m (e_c - e_0)``."""
    distance = conditional - concept
    share = (strength * distance.abs()).clamp(max=1.0)
    share = torch.where(distance < threshold, share, torch.zeros_like(share))
    return share * (concept - unconditional)
