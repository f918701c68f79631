"""What every erasure by training does around its loss: settings, pools, keeping, the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from efface.diffusion.losses import Ask
from efface.diffusion.trajectories import Pool, drawn_latents, fresh_pool, sampled_pool, stopped
from efface.errors import BadModel, BadRequest
from efface.hosts.conditions import Conditions
from efface.hosts.families import layout
from efface.hosts.states import check_trainable
from efface.memory import MemoryRanOut
from efface.progress import told
from efface.randomness import split
from efface.runs.checks import check_family, require
from efface.runs.gradient_eraser import GradientEraser, require_anchor, worded
from efface.training.hooks import Hooks
from efface.training.loop import Losses, train
from efface.training.parameters import Originals, Trained, chosen, training
from efface.training.recomputing import recomputing

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
        require(method, request)
        name = type(method).__module__.rpartition(".")[2]
        check_family(name, method.families, layout(model))
        require_anchor(method, request)
        self.method, self.model, self.request = method, model, request
        self.recording = Recording(model, generator=generator, monitor=monitor, steps=method.steps)
        self.denoiser = Denoiser(model)
        check_trainable(model, self.denoiser.network)
        if self.denoiser.dtype.itemsize < 4:
            raise BadModel(
                f"small steps of training round away in {self.denoiser.dtype}; load it in float32"
            )
        purposes = ("pool", "kept", "batches", "adapters", "beside", "saliency")
        self.draws = split(generator, *purposes)
        self.wordings = tuple(
            each for erasure in request.erasures for each in worded(erasure, method.target)
        )
        asked = [text for each in self.wordings for text in (each.prompt, each.anchor)]
        self.denoiser.check_lengths([*asked, *self.kept_wordings])

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
        half = SAMPLES_A_PASS // 2
        parts: list[Tensor] = []
        for which, noise in zip(followed.split(half), start.split(half), strict=True):
            whole = torch.full((len(which),), steps)
            asked = conditions[which]
            parts.append(
                stopped(self.denoiser, asked, noise, whole, steps=steps, guidance=guidance)
            )
            told("drawing pictures", sum(map(len, parts)), len(followed))
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
    def kept_wordings(self) -> tuple[str, ...]:
        """Lists every wording of what is kept, or the empty prompt if there is none."""
        return tuple(each for kept in self.request.keep for each in wordings(kept)) or ("",)

    def kept_prompts(self, which: Int[Tensor, " n"]) -> Conditions:
        """Encodes some of the kept wordings, those that were not asked for before."""
        return self.denoiser.conditions([self.kept_wordings[place] for place in which.tolist()])

    @cached_property
    def kept(self) -> Pool | None:
        """Samples trajectories of kept wordings, if the settings give them weight."""
        if self.method.keep_weight == 0:
            return None
        runs, count = torch.arange(self.method.keep_trajectories), len(self.kept_wordings)
        followed = torch.randperm(count, generator=self.draws["kept"])[runs % count]
        pool = self._sampled(self.kept_prompts(followed), runs, "kept")
        return replace(pool, prompts=followed[pool.runs])

    def keep(self, count: int, generator: torch.Generator) -> list[Ask]:
        """Asks that kept prompts, and at some latents none, give what they gave.

        Nothing if they have no weight.
        """
        if self.kept is None:
            return []
        some = self.kept.drawn(self.method.keep_batch or count, generator)
        asked, wanted = self.kept_prompts(some.prompts), some.conditional
        if without := round(self.method.keep_unconditional * len(some)):
            asked = Conditions.joined([self.empty(without), asked[without:]])
            wanted = torch.cat([some.unconditional[:without], wanted[without:]])
        return [Ask("keep", self.method.keep_weight, some.latents, some.times, asked, wanted)]

    def open_membranes(
        self, adapters: Adapters, asks: Sequence[Ask], generator: torch.Generator
    ) -> None:
        """Opens for every sample the membrane of its concept, or any where it is of none."""
        concepts = len(self.request.erasures)
        owners = [
            torch.randint(concepts, (len(ask.latents),), generator=generator)
            if ask.owners is None
            else ask.owners
            for ask in asks
        ]
        opened = functional.one_hot(torch.cat(owners), concepts)
        adapters.gates = opened.to(self.denoiser.device, torch.float32)

    def answered(self, pool: Pool, conditions: Conditions) -> Float[Tensor, "n c h w"]:
        """Asks the network as it is for other prompts at every entry of a pool.

        Args:
            pool: where.
            conditions: one a wording; an entry gets that of the wording it followed.
        """
        return self.denoiser.answered(
            conditions, pool.prompts, latents=pool.latents, times=pool.times
        )

    def fresh(self, edit: Trained | Adapters, count: int, generator: torch.Generator) -> Pool:
        """Samples latents with the model in training, and asks the frozen one about them."""
        steps, guidance = self.method.sampling_steps, self.method.sampling_guidance
        return fresh_pool(
            self.denoiser,
            self.prompts,
            count,
            steps=steps,
            guidance=guidance,
            generator=generator,
            teacher=edit.teacher,
        )

    def training(
        self, *roles: str, originals: Originals = "memory"
    ) -> AbstractContextManager[Trained]:
        """Trains the parameters of roles in place until the ``with`` block ends."""
        return training(self.model, chosen(self.model, *roles), originals=originals)

    def train(
        self,
        losses: Losses,
        parameters: Mapping[str, nn.Parameter],
        *,
        hooks: Hooks | None = None,
        beside: Mapping[str, Any] | None = None,
    ) -> None:
        """Trains with the method's settings.

        Kept prompts are sampled first: a run that resumes has trained weights from its first step.

        Raises:
            MemoryRanOut: with settings that need less.
        """
        _ = self.kept
        try:
            with recomputing(self.denoiser.network, on=self.method.recompute):
                train(
                    losses,
                    parameters,
                    self.method,
                    generator=self.draws["batches"],
                    recording=self.recording,
                    hooks=hooks,
                    beside=beside,
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
        self, patches: Mapping[str, Patch], *, gate: PromptGate | None = None, **diagnostics: Any
    ) -> ErasureResult:
        """Writes the run up, with the network evaluations that it took."""
        told = {"network_evaluations": self.denoiser.evaluations, **diagnostics}
        found = self.recording.result(self.method, self.request, patches, diagnostics=told)
        return found if gate is None else replace(found, delta=replace(found.delta, gate=gate))
