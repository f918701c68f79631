"""Adversarial alignment of a concept's outputs with its anchor's (DoCo, AAAI 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from efface.contracts import Monitor, Paper, TextToImage, silent
from efface.diffusion.losses import Target, predicted
from efface.diffusion.noised import Noised, TeacherPredictions, noised
from efface.errors import BadRequest, require_positive
from efface.runs.gradient_eraser import SMALL, GradientEraser
from efface.runs.gradient_runs import GradientRun
from efface.training.discriminators import ANCHOR, CONCEPT, PatchDiscriminator
from efface.training.gradients import projected_away

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult
    from efface.training.parameters import Trained

__all__ = ["Doco"]


@dataclass(frozen=True, kw_only=True)
class Doco(GradientEraser):
    """Trains a concept's pictures to be taken for its anchor's by a discriminator.

    Latents of anchor pictures are noised; from what the model predicts for the concept's prompt
    and what the frozen model predicts for the anchor's, clean latents follow. A discriminator
    learns to tell the two kinds apart, and the model to fool it (section 3.1): the distributions
    meet, not each pair of pictures, which should carry over to other wordings. Where the gradient
    would undo what a retained prompt needs, that component is taken out (section 3.2).

    Differs from the paper:
        ``surgery="projection"`` projects the gradient over all weights as one vector, as the paper
        says. The released code does it by tensor, after clipping both to length 1, so that the
        removed part is dominated by a step of the retained loss: ``surgery="official"``.
        The discriminator learns from its own loss alone; in the released code the gradient of the
        model's loss leaks into it.
        200 pictures are drawn by DDIM, for the concept's wordings with the anchor in its place; the
        paper's 1000 are by DPM-Solver++, of 200 captions. Their latents are used as they are,
        without pictures between, so nothing is resized or flipped. The frozen model is the same
        network with the unedited weights. The begin token's gradient is not cut.
        With ``draws`` the concept's kind and the anchor's are compared at that many fixed pairs of
        noise and time a picture, whose frozen predictions are made once; the paper draws afresh in
        every step, and asks the frozen model each time. Retained latents are always fresh.
        Its depth follows the latents' size. ``norm="group"`` and ``latest`` are our stabilisers.
        ``keep_weight`` is ours too; what it holds counts among what is retained.
    """

    name: ClassVar[str] = "doco"
    paper: ClassVar[Paper] = Paper(
        "Unlearning Concepts in Diffusion Model via Concept Domain Correction and Concept "
        "Preserving Gradient",
        "2405.15304",
        2025,
    )
    revision: ClassVar[int] = 2

    parameters: Literal["key_value", "cross_attention", "unet"] = "key_value"
    """Which weights are trained."""
    surgery: Literal["projection", "each", "official", "none"] = "projection"
    """How conflict with the retained loss is removed: from all weights as one, by tensor, as
    released, or not at all."""
    surgery_strength: float = 1.0
    """lambda of ``official``."""
    retain_weight: float = 0.0
    """Weight of descending the retained loss itself; the paper has 0.1 without surgery."""
    warm_up: int = 1000
    """Steps of the discriminator alone, before training."""
    discriminator_rate: float = 1e-4
    """Step size of the discriminator's Adam."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation in the discriminator."""
    latest: float = 1.0
    """Share of the noise levels that are used, from clean on; high noise blows differences up."""
    draws: int = 0
    """Pairs of noise and time that every picture has, with the frozen model's predictions made
    once; 0: fresh ones in every step, as in the paper, which with its settings takes 1.8 times the
    network evaluations of 4 draws."""
    steps: int = 1000
    """Optimiser steps. More erase deeper and disturb the rest more."""
    learning_rate: float = 4.8e-5
    """Step size of the optimiser."""
    batch: int = 8
    """Latents per step, and as many retained ones."""
    trajectories: int = 200
    """Pictures of anchor prompts that the frozen model draws."""
    sampling_steps: int = 25
    """Denoising steps of a picture."""
    sampling_guidance: float = 6.0
    """Scale of classifier-free guidance of the pictures."""
    optimiser: Literal["adam", "adamw"] = "adamw"
    """Adam, or AdamW with weight_decay."""
    weight_decay: float = 1e-2
    """Pull of the weights to zero, of adamw."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "discriminator_rate", "latest")
        if min(self.warm_up, self.retain_weight, self.draws) < 0 or self.latest > 1:
            raise BadRequest("warm_up, retain_weight and draws are 0 or more, latest at most 1")

    @classmethod
    def presets(cls) -> Mapping[str, Doco]:
        """Gives the published settings per task, and those measured for the bundled model."""
        return {
            "paper-sd14-style": cls(surgery="official", discriminator_rate=5e-4),
            "paper-sd14-object": cls(surgery="official"),
            "emoji": cls(
                **SMALL
                | {
                    "trajectories": 96,
                    "batch": 8,
                    "weight_decay": 0.0,
                    "warm_up": 100,
                    "discriminator_rate": 5e-4,
                    "norm": "group",
                    "latest": 0.85,
                    "retain_weight": 1.0,
                    "keep_weight": 200.0,
                }
            ),
        }

    def requires_anchor(self) -> bool:
        """Unless the concept is left out of its wordings."""
        return self.target != "prompt_without_concept"

    def erase(
        self,
        model: TextToImage,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Draws anchor pictures, teaches the discriminator, then trains against it."""
        run = GradientRun(self, model, request, generator=generator, monitor=monitor)
        clean, wordings = run.drawn(run.anchors)
        judge = PatchDiscriminator(
            clean.shape[1], clean.shape[2], norm=self.norm, generator=run.draws["beside"]
        ).to(clean.device)
        with run.training(self.parameters) as edit:
            game = _Game(self, run, edit, judge, clean, wordings)
            game.warm_up(run.draws["beside"])
            beside = {"discriminator": judge, "teacher": game.optimiser, "counts": game}
            run.train(game.losses, edit.parameters, hooks=game, beside=beside)
            patches = edit.patches()
        return run.result(patches, **game.diagnostics())


@dataclass
class _Game:
    """The model against the discriminator, with what both need of a step."""

    method: Doco
    run: GradientRun
    edit: Trained
    judge: PatchDiscriminator
    clean: Float[Tensor, "pictures c h w"]
    wordings: Tensor
    lessons: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """What the discriminator is to learn from: the concept's kind and the anchor's."""
    last: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """The same of the last batch, which counts only if a step is taken from it."""
    conflicts: int = 0
    surgeries: int = 0

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.Adam(
            self.judge.parameters(), lr=self.method.discriminator_rate, betas=(0.5, 0.999)
        )
        self.table = self._tabulated(self.method.draws) if self.method.draws else None

    def _tabulated(self, draws: int) -> TeacherPredictions:
        """Predicts for every picture with the unedited model, at so many noises and times each."""
        pictures = torch.arange(len(self.clean)).repeat_interleave(draws)
        return self._predictions(self._noised(pictures, self.run.draws["beside"])[0])

    def _predictions(self, rows: Noised) -> TeacherPredictions:
        run = self.run
        concept, anchor = (rows.clean(run.denoiser, each) for each in (run.prompts, run.anchors))
        return TeacherPredictions(rows, concept, anchor)

    def _fresh(self, count: int, generator: torch.Generator) -> tuple[Noised, Tensor]:
        """Noises so many of the pictures; gives the true targets as well."""
        pictures = torch.randint(len(self.clean), (count,), generator=generator)
        return self._noised(pictures, generator)

    def _noised(self, pictures: Tensor, generator: torch.Generator) -> tuple[Noised, Tensor]:
        times = (self.run.times(len(pictures), generator) * self.method.latest).floor()
        clean, wordings = self.clean[pictures], self.wordings[pictures]
        return noised(self.run.denoiser, clean, times, wordings, generator)

    def warm_up(self, generator: torch.Generator) -> None:
        """Teaches the discriminator alone, while the model is unedited."""
        count = self.method.batch
        for step in range(self.method.warm_up):
            if self.table is None:
                # As many are drawn as in a step of training, whose other half is retained.
                teacher = self._predictions(self._fresh(2 * count, generator)[0][:count])
            else:
                teacher = self.table.drawn(count, generator)
            self.lessons = [(teacher.concept, teacher.anchor)]
            self.teach()
            self.run.session.report("teaching the discriminator", step + 1, self.method.warm_up)

    def losses(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Gives the terms of the model's loss."""
        run, count = self.run, self.method.batch
        if self.table is None:
            rows, truth = self._fresh(2 * count, generator)
            erased, retained, truth = rows[:count], rows[count:], truth[count:]
            with self.edit.teacher():
                real = erased.clean(run.denoiser, run.anchors)
        else:
            teacher = self.table.drawn(count, generator)
            erased, real = teacher.rows, teacher.anchor
            retained, truth = self._fresh(count, generator)
        prompts, anchors = run.prompts[erased.prompt_index], run.anchors[retained.prompt_index]
        targets = [
            Target("erase", 1.0, erased.latents, erased.times, prompts, real),
            Target("retain", 1.0, retained.latents, retained.times, anchors, truth),
            *run.keep(count, generator),
        ]
        prediction, *others = predicted(run.denoiser, targets)
        fake = run.denoiser.process.clean(erased.latents, prediction, erased.times).float()
        self.last = [(fake.detach(), real)]
        self.judge.requires_grad_(requires_grad=False)
        terms = {"erase": self.judge.loss(fake, ANCHOR)}
        for target, other in zip(targets[1:], others, strict=True):
            terms[target.name] = target.error(other)
        return terms

    def gradients(self, terms: Mapping[str, Tensor], parameters: Mapping[str, Tensor], /) -> None:
        """Takes out of the erasing gradient what would undo the retained terms."""
        self.lessons += self.last
        weights = [*parameters.values()]
        erase = torch.autograd.grad(terms["erase"], weights, retain_graph=True)
        loss = torch.stack([term for name, term in terms.items() if name != "erase"]).sum()
        retain = torch.autograd.grad(loss, weights)
        bent = self._bent(list(erase), list(retain))
        for weight, gradient, retained in zip(weights, bent, retain, strict=True):
            weight.grad = gradient + self.method.retain_weight * retained

    def _bent(self, erase: list[Tensor], retain: list[Tensor]) -> list[Tensor]:
        if self.method.surgery == "none":
            return erase
        if self.method.surgery == "official":
            return _official(erase, retain, self.method.surgery_strength)
        bent, cosine = projected_away(erase, retain, each=self.method.surgery == "each")
        self.surgeries += 1
        self.conflicts += cosine < 0
        return bent

    def diagnostics(self) -> dict[str, Any]:
        """Gives the share of steps with a conflict, where the surgery looked for one."""
        return {"conflict_rate": self.conflicts / self.surgeries} if self.surgeries else {}

    def state_dict(self) -> dict[str, int]:
        """Gives the counts, for checkpoints."""
        return {"conflicts": self.conflicts, "surgeries": self.surgeries}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Takes the counts."""
        self.conflicts, self.surgeries = state_dict["conflicts"], state_dict["surgeries"]

    def after_step(self) -> None:
        """Lets the discriminator learn from what it was shown in this step."""
        self.teach()

    def teach(self) -> None:
        """Takes one step of the discriminator."""
        self.judge.requires_grad_(requires_grad=True)
        self.optimiser.zero_grad()
        for fake, real in self.lessons:
            (self.judge.loss(real, ANCHOR) + self.judge.loss(fake, CONCEPT)).backward()
        self.optimiser.step()
        self.lessons = []


def _official(erase: list[Tensor], retain: list[Tensor], strength: float) -> list[Tensor]:
    """Bends gradients as the released code does: by tensor, after clipping both to length 1."""
    for gradients in (erase, retain):
        length = torch.stack([each.norm() for each in gradients]).norm()
        for each in gradients:
            each *= (1 / length.clamp(min=1e-30)).clamp(max=1.0)
    bent = []
    for first, second in zip(erase, retain, strict=True):
        unit = second / second.norm().clamp(min=1e-30)
        cosine = (first * unit).sum() / first.norm().clamp(min=1e-30)
        bent.append(first - strength * cosine.clamp(max=0.0) * unit)
    return bent
