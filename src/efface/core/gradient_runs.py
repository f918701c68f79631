"""What every erasure by training does around its loss: settings, pools, keeping, the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from efface.concepts import Erasure, ErasureRequest, wordings
from efface.contracts import Eraser, Monitor, TextToImage
from efface.core.branches import check_family
from efface.core.checks import require
from efface.core.denoising import Conditions, Denoiser
from efface.core.losses import Ask
from efface.core.parameters import Trained, chosen, training
from efface.core.patches import Patch
from efface.core.randomness import split
from efface.core.recording import Recording
from efface.core.results import ErasureResult
from efface.core.token_rules import TargetRule, mentions, replaced
from efface.core.training import Hooks, Losses, train
from efface.core.training_settings import Training
from efface.core.trajectories import SAMPLES_A_PASS, Pool, drawn_latents, sampled_pool, stopped
from efface.errors import BadRequest, require_positive

__all__ = ["GradientEraser", "GradientRun", "Wording"]


@dataclass(frozen=True, kw_only=True)
class GradientEraser(Training, Eraser[TextToImage]):
    """Settings of every method that trains on latents of trajectories."""

    families: ClassVar[frozenset[str]] = frozenset({"sd1", "sd2", "sdxl"})
    edits: ClassVar[frozenset[str]] = frozenset({"unet"})

    target: TargetRule = "anchor"
    """What a wording becomes: the anchor's prompt, or itself without the concept."""
    sampling_steps: int = 50
    """Denoising steps of a trajectory."""
    sampling_guidance: float = 3.0
    """Scale of classifier-free guidance that trajectories follow."""
    trajectories: int = 8
    """Trajectories of the frozen model that are kept in the pool, each with all its visits."""
    keep_weight: float = 0.0
    """Weight of holding the frozen model's predictions for kept prompts; the papers have none."""
    keep_trajectories: int = 24
    """Trajectories of kept prompts in the pool, where they have weight."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "sampling_steps", "trajectories", "keep_trajectories")
        if self.keep_weight < 0:
            raise BadRequest(f"keep_weight is {self.keep_weight}; it must not be negative")


@dataclass(frozen=True)
class Wording:
    """One prompt of a concept, and what it shall give instead."""

    prompt: str
    anchor: str
    """The anchor's prompt; empty without an anchor."""
    erasure: Erasure


class GradientRun:
    """One run of a method: checks the request, counts, draws, and writes the result up.

    Args:
        method: its settings.
        model: the pipeline, which the run leaves as it was.
        request: what goes and stays.
        generator: of all draws; every purpose gets its own.
        monitor: called once a step.
    """

    def __init__(
        self,
        method: GradientEraser,
        model: Any,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor,
    ) -> None:
        require(method, request)
        check_family(model, method)
        self.method, self.model, self.request = method, model, request
        self.recording = Recording(model, generator=generator, monitor=monitor, steps=method.steps)
        self.denoiser = Denoiser(model)
        purposes = ("pool", "kept", "batches", "adapters", "beside", "saliency")
        self.draws = split(generator, *purposes)
        self.wordings = tuple(
            each for erasure in request.erasures for each in _worded(erasure, method.target)
        )

    @cached_property
    def prompts(self) -> Conditions:
        """Encodes the wordings of what is erased, in order."""
        return self.denoiser.conditions([wording.prompt for wording in self.wordings])

    @cached_property
    def anchors(self) -> Conditions:
        """Encodes what each wording shall give instead."""
        return self.denoiser.conditions([wording.anchor for wording in self.wordings])

    def empty(self, count: int) -> Conditions:
        """Encodes the empty prompt, several times."""
        return self.denoiser.conditions([""]).repeated(count)

    def pool(self, last: int | None = None) -> Pool:
        """Samples trajectories of the frozen model, as many for every concept.

        Args:
            last: stop after so many steps; left out, at the end.
        """
        return self._sampled(self.prompts, self._in_turn(), "pool", last)

    def drawn(
        self, conditions: Conditions
    ) -> tuple[Float[Tensor, "runs c h w"], Int[Tensor, " runs"]]:
        """Draws clean latents with the frozen model: one condition a wording, concepts in turn.

        Returns:
            The latents, and which wording each of them is of.
        """
        followed = self._in_turn()
        start = drawn_latents(self.denoiser, len(followed), self.draws["pool"])
        steps, guidance = self.method.sampling_steps, self.method.sampling_guidance
        parts = [
            stopped(
                self.denoiser,
                conditions[which],
                noise,
                torch.full((len(which),), steps),
                steps=steps,
                guidance=guidance,
            )
            for which, noise in zip(
                followed.split(SAMPLES_A_PASS // 2), start.split(SAMPLES_A_PASS // 2), strict=True
            )
        ]
        return torch.cat(parts), followed

    def times(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        """Draws training timesteps with equal chance."""
        every = len(self.denoiser.process.noise)
        return torch.randint(every, (count,), generator=generator).to(torch.float64)

    def _in_turn(self) -> Int[Tensor, " runs"]:
        """Chooses a wording for every trajectory: concepts in turn, their wordings at random."""
        generator, runs = self.draws["pool"], self.method.trajectories
        each: dict[Erasure, list[int]] = {}
        for place in torch.randperm(len(self.wordings), generator=generator).tolist():
            each.setdefault(self.wordings[place].erasure, []).append(place)
        lists = [*each.values()]
        if len(lists) > runs:
            raise BadRequest(
                f"{len(lists)} concepts need at least as many trajectories; there are {runs}"
            )
        taken = [(run % len(lists), run // len(lists)) for run in range(runs)]
        return torch.tensor([lists[which][nth % len(lists[which])] for which, nth in taken])

    def _sampled(
        self,
        conditions: Conditions,
        followed: Int[Tensor, " runs"],
        purpose: str,
        last: int | None = None,
    ) -> Pool:
        return sampled_pool(
            self.denoiser,
            conditions,
            followed,
            steps=self.method.sampling_steps,
            guidance=self.method.sampling_guidance,
            generator=self.draws[purpose],
            last=last,
        )

    @cached_property
    def kept_prompts(self) -> Conditions:
        """Encodes one wording of every kept concept, or the empty prompt if there is none."""
        kept = [prompt for concept in self.request.keep for prompt in wordings(concept)]
        return self.denoiser.conditions(kept or [""])

    @cached_property
    def kept(self) -> Pool | None:
        """Samples trajectories of kept prompts, if the settings give them weight."""
        if self.method.keep_weight == 0:
            return None
        order = torch.randperm(len(self.kept_prompts), generator=self.draws["kept"])
        runs = torch.arange(self.method.keep_trajectories)
        return self._sampled(self.kept_prompts, order[runs % len(order)], "kept")

    def keep(self, count: int, generator: torch.Generator) -> list[Ask]:
        """Asks that kept prompts give what they gave; nothing if they have no weight."""
        if self.kept is None:
            return []
        some = self.kept.drawn(count, generator)
        asked = self.kept_prompts[some.prompts]
        weight = self.method.keep_weight
        return [Ask("keep", weight, some.latents, some.times, asked, some.conditional)]

    def fresh(self, edit: Trained, count: int, generator: torch.Generator) -> Pool:
        """Samples latents with the model in training, and asks the frozen one about them."""
        steps = self.method.sampling_steps
        prompts = torch.randint(len(self.prompts), (count,), generator=generator)
        places = torch.randint(steps, (count,), generator=generator)
        start = drawn_latents(self.denoiser, count, generator)
        asked = self.prompts[prompts]
        latents = stopped(
            self.denoiser,
            asked,
            start,
            places,
            steps=steps,
            guidance=self.method.sampling_guidance,
        )
        times = self.denoiser.timesteps(steps)[places]
        with edit.teacher():
            answers = self.denoiser.predict(
                torch.cat([latents, latents]),
                torch.cat([times, times]),
                Conditions.joined([self.empty(count), asked]),
            )
        without, with_prompt = answers.split(count)
        return Pool(
            latents=latents,
            times=times,
            places=places,
            prompts=prompts,
            runs=torch.arange(count),
            unconditional=without,
            conditional=with_prompt,
            clean=latents,
        )

    def training(self, *roles: str) -> Any:
        """Trains the parameters of roles in place until the ``with`` block ends."""
        return training(self.model, chosen(self.model, *roles))

    def train(
        self,
        losses: Losses,
        parameters: Mapping[str, nn.Parameter],
        *,
        hooks: Hooks | None = None,
        beside: Mapping[str, Any] | None = None,
    ) -> None:
        """Trains with the method's settings."""
        with _recomputing(self.denoiser.network, on=self.method.recompute):
            train(
                losses,
                parameters,
                self.method,
                generator=self.draws["batches"],
                recording=self.recording,
                hooks=hooks,
                beside=beside,
            )

    def result(self, patches: Mapping[str, Patch], **diagnostics: Any) -> ErasureResult:
        """Writes the run up, with the network evaluations that it took."""
        told = {"network_evaluations": self.denoiser.evaluations, **diagnostics}
        return self.recording.result(self.method, self.request, patches, diagnostics=told)


def _worded(erasure: Erasure, rule: TargetRule) -> Iterator[Wording]:
    """Pairs every wording of a concept with the prompt that takes its place."""
    anchor = erasure.anchor.name if erasure.anchor else ""
    for prompt, name in mentions(erasure.concept):
        whole = name is None or (rule == "anchor" and not anchor)
        yield Wording(prompt, anchor if whole else replaced(prompt, str(name), anchor), erasure)


@contextmanager
def _recomputing(network: nn.Module, *, on: bool) -> Iterator[None]:
    """Turns gradient checkpointing on for the body."""
    if not on:
        yield
        return
    held = {part: dict(vars(part)) for part in network.modules()}
    network.enable_gradient_checkpointing()  # type: ignore[operator]
    try:
        yield
    finally:
        for part, attributes in held.items():
            for name in vars(part).keys() - attributes.keys():
                delattr(part, name)
            if "gradient_checkpointing" in attributes:
                part.gradient_checkpointing = attributes["gradient_checkpointing"]
