"""Other guidance, schedulers and steps, the name as negative prompt: what a sampler lets set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from efface.contracts import Access, Attack
from efface.errors import require_positive
from efface.revival.attempts import Attempt
from efface.revival.drawing import SCHEDULERS
from efface.revival.target import nameless
from efface.revival.trials import trial_draws

if TYPE_CHECKING:
    from collections.abc import Iterator

    from efface.contracts import Attempts, Sample
    from efface.revival.target import Target

__all__ = ["SamplingTricks"]


@dataclass(frozen=True, kw_only=True)
class SamplingTricks(Attack):
    """Changes how each prompt is sampled, one thing at a time, and never what it says.

    No guidance (scales 0 and 1 are the same to the pipelines), little and much of it; few steps and
    many; other schedulers, where the model has noise of a diffusion; the concept's name as negative
    prompt with guidance turned around, which leads towards it; and no prompt at all, where what is
    left of the concept in the unconditional model may show. Erasures that reverse guidance are hit
    by the first and the last ones. Without a prompt a model of few things draws the concept by
    chance, too: about as often as it did before the erasure.
    """

    name: ClassVar[str] = "sampling_tricks"
    access: ClassVar[Access] = "pipeline"
    needs_name: ClassVar[bool] = True

    guidances: tuple[float, ...] = (1.0, 1.5, 10.0)
    """Scales of guidance."""
    steps: tuple[int, ...] = (5, 40)
    """Denoising steps."""
    reversed_guidances: tuple[float, ...] = (3.0,)
    """How strongly guidance is turned around, with the name as negative prompt."""
    seeds: int = 2
    """Seeds without a prompt."""

    def __post_init__(self) -> None:
        require_positive(self, "seeds")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Draws each prompt in each way, the cheap and likely ones first."""
        draws = [
            torch.randint(2**31, (self.seeds,), generator=one).tolist()
            for one in trial_draws(target, generator)
        ]
        ways = [
            list(self._ways(target, sample, seeds))
            for sample, seeds in zip(target.trials, draws, strict=True)
        ]
        opened = frozenset(range(len(ways)))
        for turn in range(len(ways[0])):
            opened = yield [
                Attempt(
                    trial=trial,
                    **{
                        "prompt": target.trials[trial].prompt,
                        "seed": target.trials[trial].seed,
                        **ways[trial][turn],
                    },
                )
                for trial in sorted(opened)
            ]

    def _ways(
        self, target: Target, sample: Sample, seeds: list[int]
    ) -> Iterator[Mapping[str, Any]]:
        """Gives what each attempt sets; as many for every trial."""
        for scale in self.guidances:
            yield {"guidance": scale, "note": f"guidance {scale:g}"}
        bare = nameless(sample, target.concept).prompt
        for scale in self.reversed_guidances:
            yield {
                "prompt": bare,
                "negative": target.concept.name,
                "guidance": -scale,
                "note": f"guidance -{scale:g} away from the name",
            }
        for count in self.steps:
            yield {"steps": count, "note": f"{count} steps"}
        own = type(target.denoiser.scheduler()).__name__
        if target.denoiser.process.kind != "flow_prediction":
            for kind in SCHEDULERS:
                if kind != own:
                    yield {"scheduler": kind, "note": kind}
        for seed in seeds:
            yield {"prompt": "", "seed": seed, "note": "no prompt"}
