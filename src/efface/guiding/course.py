"""What a guide is told of a run, and its part in it: conditions that it reads, and what it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

from jaxtyping import Bool, Float
from torch import Tensor

from efface.contracts import Guide
from efface.deltas.application import applied_to, unedited
from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import Visit
from efface.errors import BadRequest
from efface.hosts.conditions import Conditions

__all__ = ["Branch", "Course", "GuidedRun", "Read", "Span", "refuse_unfit", "require_span"]

Branch: TypeAlias = Literal["unedited", "edited"]
"""Which model predicts what a guide leads away from, while a delta is applied: the base, which
still knows what it is, or the edited model. Without a delta both are one."""


@dataclass(frozen=True, eq=False)
class Read:
    """Conditions of one more branch, whose predictions a guide reads."""

    conditions: Conditions
    """One prompt per sample."""
    edited: bool = True
    """Whether it is predicted with the applied deltas on."""


@dataclass(frozen=True)
class Span:
    """A part of a run, in shares of its steps, as numbers of steps."""

    first: int
    """Steps before it."""
    last: int
    """Steps before its end."""

    def __contains__(self, index: int) -> bool:
        return self.first <= index < self.last


@dataclass(frozen=True, eq=False)
class GuidedRun:
    """One run of the sampler, as guides are told of it."""

    denoiser: Denoiser
    prompts: tuple[str, ...]
    """One per sample."""
    steps: int
    """Visits of the sampler."""
    guidance: float | None
    """Scale of classifier-free guidance; None: there is none."""
    conditions: Conditions
    """What the network reads of the prompts."""

    @property
    def model(self) -> Any:
        """The pipeline."""
        return self.denoiser.host.model

    @cached_property
    def is_edited(self) -> bool:
        """Whether a delta is applied that can be taken off."""
        return any(not record.merged for record in applied_to(self.model))

    def base(self) -> AbstractContextManager[Any]:
        """Takes all deltas off for a ``with`` block, and puts them back bit for bit."""
        return unedited(self.model) if self.is_edited else nullcontext()

    def read(self, text: str, branch: Branch) -> Read:
        """Encodes one text for all samples, by the model that shall predict for it.

        Raises:
            BadRequest: the text is longer than an encoder reads.
        """
        edited = branch == "edited" or not self.is_edited
        with nullcontext() if edited else self.base():
            encoded = self.denoiser.host.encode([text])
        return Read(encoded.repeated(len(self.prompts)), edited)

    def scale(self, guide: str) -> float:
        """Gives the scale of guidance, for guides that work by it.

        Raises:
            BadRequest: guidance is off.
        """
        if self.guidance is None:
            raise BadRequest(
                f"{guide} changes classifier-free guidance, which is off; set guidance above 1, or "
                "take nag, which works without"
            )
        return self.guidance

    def span(self, guide: str, start: float, stop: float = 1.0) -> Span:
        """Gives the steps of a part of the run that begins and ends after shares of it.

        Raises:
            BadRequest: no step falls into it.
        """
        # Shares such as 0.3 are not exact: 0.3 * 50 is step 15.
        first, last = (math.ceil(share * self.steps - 1e-9) for share in (start, stop))
        if first >= last:
            raise BadRequest(
                f"{guide} works from {start:g} to {stop:g} of a run, and none of {self.steps} "
                f"{'step falls' if self.steps == 1 else 'steps fall'} there; draw with more steps "
                "or widen that"
            )
        return Span(first, last)


class Course:
    """A guide's part in one run; holds the state of all samples. What is not needed stays.

    Predictions are of all samples in order. Methods are called without gradients.
    """

    reads: tuple[Read, ...] = ()
    """Branches whose predictions `combine` is given."""
    replaces_empty: bool = False
    """Whether the first read stands in the empty prompt's place, which is then not asked; at steps
    that do not want it, it is."""
    conditions: Conditions | None = None
    """What the network reads in place of the prompts."""
    idle: Bool[Tensor, " n"] | None = None
    """Samples that it leaves alone on purpose; None: there are none."""
    alters_prompt: bool = False
    """Whether it changes what the network gives for the prompts, by ``conditions`` or `within`. At
    the first step where it acts, the network is then asked about the prompts without it, too, to
    see whether it does anything."""

    def acts(self, _index: int, /) -> bool:
        """Says whether it does anything at a step; asked where ``alters_prompt``."""
        return True

    def wants(self, _index: int, /) -> Sequence[int]:
        """Lists which reads are needed at a step, by number; others are not asked."""
        return range(len(self.reads))

    def before(self, _visit: Visit, /) -> Float[Tensor, "n c h w"] | None:
        """Gives changed latents before the network is asked, or None."""
        return None

    def within(self, _visit: Visit, /) -> AbstractContextManager[Any]:
        """Changes the network for the duration of one pass."""
        return nullcontext()

    def combine(
        self, _visit: Visit, _answers: dict[int, Float[Tensor, "n c h w"]], /
    ) -> Float[Tensor, "n c h w"] | None:
        """Gives what the scheduler steps along, or None to leave it.

        Args:
            _visit: after its pass; without its unconditional prediction, where a read of the base
                replaces that.
            _answers: predictions for the reads that were wanted, by number.
        """
        return None


def require_span(start: float, stop: float = 1.0) -> None:
    """Refuses what is no part of a run.

    Raises:
        BadRequest: a share is not from 0 to 1, or the start is not before the end.
    """
    if not 0 <= start < stop <= 1:
        raise BadRequest(
            f"a guide works from {start:g} to {stop:g} of a run; give shares of it, from 0 to 1, "
            "the start before the end"
        )


def refuse_unfit(guides: Sequence[Guide]) -> None:
    """Refuses what can be seen before a model is loaded.

    Raises:
        BadRequest: a guide has nothing to steer by, or two say what the sampler steps along.
    """
    for guide in guides:
        if guide.steers_by and not any(getattr(guide, name) for name in guide.steers_by):
            wanted = " or ".join(guide.steers_by)
            raise BadRequest(
                f"{guide.name} has nothing to steer by; give it {wanted}, on the command line "
                f"--{guide.name}.{guide.steers_by[0]}"
            )
    both = [guide.name for guide in guides if guide.combines]
    if len(both) > 1:
        raise BadRequest(
            f"{' and '.join(both)} both say what the sampler steps along, and only one can; leave "
            "one out, or give one guide both concepts"
        )
