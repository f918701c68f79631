"""Semantic guidance: adds concepts or takes them out along few elements (SEGA, NeurIPS 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from efface.contracts import Guide, Paper
from efface.errors import BadRequest
from efface.guiding.course import Branch, Course, Read, Span, require_span

if TYPE_CHECKING:
    from efface.diffusion.sampling import Visit
    from efface.guiding.course import GuidedRun

__all__ = ["SemanticGuidance", "largest"]


@dataclass(frozen=True, kw_only=True)
class SemanticGuidance(Guide):
    """Adds to guidance, for each concept, its few largest elements (equations 4 to 9).

    With ``e_0`` and ``e_c`` the predictions for the empty prompt and a concept:
    ``g = scale (e_c - e_0)``, negative for what is removed, where it is among the largest of its
    channel, else 0; ``G = g + momentum_scale v``; ``v`` becomes ``momentum_decay v + (1 -
    momentum_decay) G``; after the concept's warm-up ``e = e_0 + w (e_p - e_0) + G``.

    Costs one evaluation per step and concept beside the two of guidance; none after a concept's
    end, and none before its start if there is no momentum. ``scale`` is not multiplied by that of
    guidance, so numbers of SLD do not fit here.

    Differs from the released code:
        Each concept has its own momentum and enters when its own warm-up is over. The code averages
        those that are past it and leaves momentum out, until all are; then it jumps to the sum.
        Where all concepts start together, which is usual, both are the same.
    """

    name: ClassVar[str] = "sega"
    paper: ClassVar[Paper] = Paper(
        "SEGA: Instructing Text-to-Image Models using Semantic Guidance", "2301.12247", 2023
    )
    combines: ClassVar[bool] = True
    steers_by: ClassVar[tuple[str, ...]] = ("remove", "add")

    remove: tuple[str, ...] = ()
    """Concepts to take out."""
    add: tuple[str, ...] = ()
    """Concepts to put in."""
    scales: tuple[float, ...] = (5.0,)
    """How strongly: one number for all concepts, or one each, those to remove first. 0: off."""
    thresholds: tuple[float, ...] = (0.9,)
    """Share of each channel's elements, the smallest, that are left alone; as ``scales``."""
    starts: tuple[float, ...] = (0.2,)
    """Share of the run that is the warm-up; as ``scales``."""
    stops: tuple[float, ...] = (1.0,)
    """Share of the run after which a concept is let go; as ``scales``."""
    momentum_scale: float = 0.1
    """Weight of the momentum, 0 to 1; 0: none."""
    momentum_decay: float = 0.4
    """Share of the momentum that is left after a step."""
    negative_on: Branch = "unedited"
    """Which model predicts for concepts to remove, while a delta is applied: unedited or edited.
    Those to add are predicted by the edited one."""

    def __post_init__(self) -> None:
        count = len(self.remove) + len(self.add)
        for field in ("scales", "thresholds", "starts", "stops"):
            given = len(getattr(self, field))
            if given not in (1, count) and (count or given != 1):
                raise BadRequest(
                    f"{field} has {given} numbers and sega {count} concepts; give one for all, or "
                    "one for each"
                )
        for threshold in self.thresholds:
            if not 0 <= threshold < 1:
                raise BadRequest(f"a threshold is {threshold}; give a share, 0 to below 1")
        for start, stop in zip(self._each(self.starts), self._each(self.stops), strict=True):
            require_span(start, stop)
        for field in ("momentum_scale", "momentum_decay"):
            if not 0 <= getattr(self, field) <= 1:
                raise BadRequest(f"{field} is {getattr(self, field)}; give a share, 0 to 1")

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """Gives the defaults of the released code, whose runs have 50 steps."""
        return {"released": cls()}

    def _each(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Gives a number for each concept."""
        count = len(self.remove) + len(self.add)
        return values if len(values) == count else values[:1] * max(1, count)

    def begin(self, run: GuidedRun) -> Course | None:
        """Encodes the concepts; it is off where all scales are 0."""
        run.scale(self.name)
        edits = []
        for place, text in enumerate((*self.remove, *self.add)):
            removed = place < len(self.remove)
            scale = self._each(self.scales)[place]
            start, stop = self._each(self.starts)[place], self._each(self.stops)[place]
            edits.append(
                _Edit(
                    run.read(text, self.negative_on if removed else "edited"),
                    -scale if removed else scale,
                    self._each(self.thresholds)[place],
                    run.span(self.name, start, stop),
                )
            )
        on = [edit for edit in edits if edit.scale]
        return _Semantic(self, on) if on else None


class _Edit(NamedTuple):
    """One concept in one run."""

    read: Read
    scale: float
    threshold: float
    span: Span


class _Semantic(Course):
    def __init__(self, guide: SemanticGuidance, edits: Sequence[_Edit]) -> None:
        self.reads = tuple(edit.read for edit in edits)
        self._guide, self._edits = guide, edits
        self._momenta: dict[int, Tensor] = {}

    def wants(self, index: int) -> Sequence[int]:
        builds = bool(self._guide.momentum_scale)
        return [
            number
            for number, edit in enumerate(self._edits)
            if index in edit.span or (builds and index < edit.span.first)
        ]

    def combine(
        self, visit: Visit, answers: dict[int, Float[Tensor, "n c h w"]]
    ) -> Float[Tensor, "n c h w"] | None:
        e_0, _ = visit.predictions()
        guide, moved = self._guide, None
        for number, edit in enumerate(self._edits):
            v = self._momenta.get(number, torch.zeros_like(e_0))
            edited = guide.momentum_scale * v
            if number in answers:
                g = edit.scale * (answers[number] - e_0)
                edited = edited + g * largest(g, edit.threshold)
            self._momenta[number] = guide.momentum_decay * v + (1 - guide.momentum_decay) * edited
            if visit.index >= edit.span.first:
                moved = edited if moved is None else moved + edited
        if moved is None or visit.prediction is None:
            return None
        return visit.prediction + moved


def largest(values: Float[Tensor, "n c h w"], threshold: float) -> Bool[Tensor, "n c h w"]:
    """Marks the elements whose size is at or above a quantile of their channel, in float32.

    No element lies between two neighbours in order, so the one above a quantile that falls there
    marks the same as the quantile itself.
    """
    sizes = values.float().flatten(2).abs()
    place = math.ceil(threshold * (sizes.shape[2] - 1) - 1e-9) + 1
    smallest = sizes.kthvalue(place, dim=2, keepdim=True).values
    return (sizes >= smallest).view(values.shape)
