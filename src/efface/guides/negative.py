"""Negative prompt: guidance leads away from a text instead of the empty prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Float
from torch import Tensor

from efface.contracts import Guide, Paper
from efface.diffusion.noise import guided
from efface.guiding.course import Branch, Course, Read, Span, require_span

if TYPE_CHECKING:
    from efface.diffusion.sampling import Visit
    from efface.guiding.course import GuidedRun

__all__ = ["NegativePrompt"]


@dataclass(frozen=True, kw_only=True)
class NegativePrompt(Guide):
    """Leads away from a text: ``e = e_n + w (e_p - e_n)``, with w the scale of guidance.

    Costs as many evaluations as plain guidance, and one more to see whether it does anything.
    Pipelines know it as ``negative_prompt``; here it may have a part of the run to itself, and on
    an erased model it is predicted by the base, which still knows what to avoid.
    """

    name: ClassVar[str] = "negative"
    paper: ClassVar[Paper] = Paper("Classifier-Free Diffusion Guidance", "2207.12598", 2022)
    combines: ClassVar[bool] = True
    steers_by: ClassVar[tuple[str, ...]] = ("text",)

    text: str = ""
    """What to lead away from."""
    start: float = 0.0
    """Share of the run after which it begins."""
    stop: float = 1.0
    """Share of the run after which it ends."""
    negative_on: Branch = "unedited"
    """Which model predicts for the text, while a delta is applied: unedited or edited."""

    def __post_init__(self) -> None:
        require_span(self.start, self.stop)

    def begin(self, run: GuidedRun) -> Course:
        """Encodes the text."""
        scale, span = run.scale(self.name), run.span(self.name, self.start, self.stop)
        return _Away(run.read(self.text, self.negative_on), span, scale)


class _Away(Course):
    replaces_empty = True

    def __init__(self, read: Read, span: Span, scale: float) -> None:
        self.reads, self._span, self._scale = (read,), span, scale

    def wants(self, index: int) -> range:
        return range(int(index in self._span))

    def combine(
        self, visit: Visit, answers: dict[int, Float[Tensor, "n c h w"]]
    ) -> Float[Tensor, "n c h w"] | None:
        if not answers or visit.conditional is None:
            return None
        return guided(answers[0], visit.conditional, self._scale)
