"""What every erasure by training does around its loss: settings, pools, keeping, the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from efface.concepts import Erasure, ErasureRequest, wordings
from efface.contracts import Monitor
from efface.deltas.adapters import Adapters, adapting
from efface.deltas.gates import PromptGate
from efface.deltas.patches import Patch
from efface.deltas.recording import Recording
from efface.deltas.results import ErasureResult
from efface.diffusion.denoising import SAMPLES_A_PASS, Denoiser
from efface.diffusion.losses import Target
from efface.diffusion.trajectories import Pool, drawn_latents, fresh_pool, sampled_pool, stopped
from efface.errors import BadModel, BadRequest
from efface.hosts.conditions import Conditions
from efface.hosts.families import layout
from efface.hosts.states import check_trainable
from efface.memory import MemoryRanOut
from efface.randomness import split
from efface.runs.checks import check_family
from efface.runs.gradient_eraser import GradientEraser, worded
from efface.text.token_rules import worded_by
from efface.training.hooks import Hooks
from efface.training.loop import Losses, train
from efface.training.parameters import Trained, chosen, training
from efface.training.recomputing import recomputing
from efface.training.session import Session

__all__ = ["GradientRun"]


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
        check_family(method.name, method.families, layout(model))
        method.check_request(request)
        method.chosen(model, len(request.erasures))
        self.method, self.model, self.request = method, model, request
        self.session = Session.of(monitor)
        if self.session.checkpointing is not None:
            self.session.checkpointing.require_free()
        self.recording = Recording(model, generator=generator, monitor=monitor, steps=method.steps)
        self.denoiser = Denoiser(model)
        check_trainable(model, self.denoiser.network)
        if self.denoiser.dtype.itemsize < 4:
            raise BadModel(
                f"small steps of training round away in {self.denoiser.dtype}; load it in float32"
            )
        purposes = ("pool", "kept", "batches", "adapters", "beside", "saliency", "gate")
        self.draws = split(generator, *purposes)
        erasures = worded_by(request, method.wordings).erasures
        self.wordings = tuple(
            wording
            for erasure, original in zip(erasures, request.erasures, strict=True)
            for wording in worded(erasure, method.target, original)
        )
        read = [text for each in self.wordings for text in (each.prompt, each.anchor)]
        self.denoiser.check_lengths([*read, *self.kept_wordings])

    @cached_property
    def prompts(self) -> Conditions:
        """Encodes the wordings of what is erased, in order."""
        return self.denoiser.conditions([wording.prompt for wording in self.wordings])

    @cached_property
    def owners(self) -> Int[Tensor, " wordings"]:
        """Says which erasure of the request each wording is of."""
        places = {id(erasure): place for place, erasure in enumerate(self.request.erasures)}
        return torch.tensor([places[id(wording.erasure)] for wording in self.wordings])

    @cached_property
    def anchors(self) -> Conditions:
        """Encodes what each wording shall give instead."""
        return self.denoiser.conditions([wording.anchor for wording in self.wordings])

    def empty(self, count: int) -> Conditions:
        """Encodes the empty prompt, several times."""
        return self.denoiser.conditions([""]).repeated(count)

    def pool(self, conditions: Conditions | None = None, *, last: int | None = None) -> Pool:
        """Samples trajectories of the frozen model, as many for every concept.

        Args:
            conditions: what trajectories follow, one a wording; left out, the wordings themselves.
            last: stop after so many steps; left out, at the end.
        """
        followed = self.prompts if conditions is None else conditions
        return self._sampled(followed, self._in_turn(), "pool", last)

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
        half = SAMPLES_A_PASS // 2
        parts: list[Tensor] = []
        for which, noise in zip(followed.split(half), start.split(half), strict=True):
            whole = torch.full((len(which),), steps)
            prompts = conditions[which]
            parts.append(
                stopped(self.denoiser, prompts, noise, whole, steps=steps, guidance=guidance)
            )
            self.session.report("drawing pictures", sum(map(len, parts)), len(followed))
        return torch.cat(parts), followed

    def times(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        """Draws training timesteps with equal chance."""
        every = len(self.denoiser.process.noise)
        return torch.randint(every, (count,), generator=generator).to(torch.float64)

    def _in_turn(self) -> Int[Tensor, " runs"]:
        """Chooses a wording for every trajectory: concepts in turn, their wordings at random."""
        generator, runs = self.draws["pool"], self.method.trajectories
        by_concept: dict[Erasure, list[int]] = {}
        for number in torch.randperm(len(self.wordings), generator=generator).tolist():
            by_concept.setdefault(self.wordings[number].erasure, []).append(number)
        lists = [*by_concept.values()]
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
            report=self.session.report,
        )

    @cached_property
    def kept_wordings(self) -> tuple[str, ...]:
        """Lists every wording of what is kept, or the empty prompt if there is none."""
        kept = worded_by(self.request, self.method.wordings).keep
        return tuple(text for concept in kept for text in wordings(concept)) or ("",)

    def kept_prompts(self, which: Int[Tensor, " n"]) -> Conditions:
        """Encodes kept wordings by their numbers, each once."""
        return self.denoiser.conditions([self.kept_wordings[place] for place in which.tolist()])

    @cached_property
    def kept(self) -> Pool | None:
        """Samples trajectories of kept wordings, if the settings ask for a pool of them."""
        if not self.method.pools_kept():
            return None
        runs, count = torch.arange(self.method.keep_trajectories), len(self.kept_wordings)
        followed = torch.randperm(count, generator=self.draws["kept"])[runs % count]
        pool = self._sampled(self.kept_prompts(followed), runs, "kept")
        return replace(pool, prompt_index=followed[pool.trajectory_index])

    def keep(self, count: int, generator: torch.Generator) -> list[Target]:
        """Gives the target that holds kept prompts, and at some latents none, where they were.

        None if they have no weight.
        """
        if self.kept is None:
            return []
        visits = self.kept.drawn(self.method.keep_batch or count, generator)
        prompts, prediction = self.kept_prompts(visits.prompt_index), visits.conditional
        if without := round(self.method.keep_unconditional * len(visits)):
            prompts = Conditions.joined([self.empty(without), prompts[without:]])
            prediction = torch.cat([visits.unconditional[:without], prediction[without:]])
        weight = self.method.keep_weight
        return [Target("keep", weight, visits.latents, visits.times, prompts, prediction)]

    def open_membranes(
        self, adapters: Adapters, targets: Sequence[Target], generator: torch.Generator
    ) -> None:
        """Opens for every sample the membrane of its concept, or any where it is of none."""
        concepts = len(self.request.erasures)
        owners = [
            torch.randint(concepts, (len(target.latents),), generator=generator)
            if target.owners is None
            else target.owners
            for target in targets
        ]
        opened = functional.one_hot(torch.cat(owners), concepts)
        adapters.gates = opened.to(self.denoiser.device, torch.float32)

    def answered(self, pool: Pool, conditions: Conditions) -> Float[Tensor, "n c h w"]:
        """Predicts with the network as it is for other prompts at every entry of a pool.

        Args:
            pool: where.
            conditions: one a wording; an entry gets that of the wording it followed.
        """
        return self.denoiser.answered(
            conditions, pool.prompt_index, latents=pool.latents, times=pool.times
        )

    def fresh(
        self,
        edit: Trained | Adapters,
        count: int,
        generator: torch.Generator,
        conditions: Conditions | None = None,
    ) -> Pool:
        """Samples latents with the model in training, with the frozen one's predictions there.

        Args:
            edit: what is trained.
            count: of latents.
            generator: of all draws.
            conditions: what trajectories follow, one a wording; left out, the wordings themselves.
        """
        steps, guidance = self.method.sampling_steps, self.method.sampling_guidance
        return fresh_pool(
            self.denoiser,
            self.prompts if conditions is None else conditions,
            count,
            steps=steps,
            guidance=guidance,
            generator=generator,
            teacher=edit.teacher,
        )

    def training(self, *roles: str | Mapping[str, nn.Parameter]) -> AbstractContextManager[Trained]:
        """Trains parameters in place until the ``with`` block ends.

        Args:
            roles: names of roles, or parameters by key.
        """
        parameters: dict[str, nn.Parameter] = {}
        for role in roles:
            parameters |= chosen(self.model, role) if isinstance(role, str) else role
        return training(self.model, parameters)

    def train(
        self,
        losses: Losses,
        parameters: Mapping[str, nn.Parameter],
        *,
        hooks: Hooks | None = None,
        beside: Mapping[str, Any] | None = None,
        steps: int | None = None,
        stop: Callable[[int], bool] | None = None,
    ) -> None:
        """Trains with the method's settings.

        Kept prompts are sampled first: a run that resumes has trained weights from its first step.

        Args:
            losses: the terms of one step, weighted.
            parameters: what is trained, by key.
            hooks: other rules for gradients, and a constraint after every step.
            beside: whatever else a checkpoint must hold.
            steps: where they follow from something else than the setting, such as epochs.
            stop: ends training early; see `efface.training.loop.train`.

        Raises:
            MemoryRanOut: with settings that need less.
        """
        _ = self.kept
        settings = self.method if steps is None else replace(self.method, steps=steps)
        self.recording.steps = settings.steps
        try:
            with recomputing(self.denoiser.network, on=self.method.recompute):
                train(
                    losses,
                    parameters,
                    settings,
                    generator=self.draws["batches"],
                    recording=self.recording,
                    hooks=hooks,
                    beside=beside,
                    checkpointing=self.session.checkpointing,
                    stop=stop,
                )
        except MemoryRanOut as error:
            raise MemoryRanOut(f"{error} in training; {self._smaller()}") from error

    def _smaller(self) -> str:
        """Names settings that need less memory and keep the samples of a step."""
        method, ways = self.method, []
        if method.batch > 1:
            half = [("batch", method.batch // 2), ("accumulate", 2 * method.accumulate)]
            if method.keep_batch > 1:
                half.insert(1, ("keep_batch", method.keep_batch // 2))
            ways.append(" ".join(f"--{name.replace('_', '-')} {value}" for name, value in half))
        if not method.recompute:
            ways.append("--recompute true")
        ways.append("a group of fewer --parameters")
        return f"try {' or '.join(ways)}"

    def adapting(self, role: str, **options: Any) -> AbstractContextManager[Adapters]:
        """Trains low-rank layers beside those of a role until the ``with`` block ends."""
        adapters = Adapters(self.model, role, generator=self.draws["adapters"], **options)
        return adapting(self.model, adapters)

    def result(
        self,
        patches: Mapping[str, Patch],
        *,
        gate: PromptGate | None = None,
        **diagnostics: Any,
    ) -> ErasureResult:
        """Writes the run up, with the network evaluations that it took."""
        diagnostics = {"network_evaluations": self.denoiser.evaluations, **diagnostics}
        result = self.recording.result(self.method, self.request, patches, diagnostics=diagnostics)
        return result if gate is None else replace(result, delta=replace(result.delta, gate=gate))
