"""Gradient ascent of the text encoder on a few pictures (few-shot unlearning, BMVC 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from efface.contracts import Monitor, Paper, TextToImage, silent
from efface.diffusion.pictures import Fit
from efface.errors import BadRequest, require_positive
from efface.randomness import noise_like
from efface.runs.encoder_training import (
    Drift,
    EncoderPart,
    HeldError,
    check_empty_prompt,
    encoder_parameters,
    every_fifth,
    held_embeddings,
    moved,
    noised_errors,
)
from efface.runs.gradient_eraser import GradientEraser
from efface.runs.gradient_runs import GradientRun
from efface.runs.pictures import Epochs, Pictures, require_pictures
from efface.training.stopping import StopRules

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["FewShot"]


@dataclass(frozen=True, kw_only=True)
class FewShot(GradientEraser):
    """Trains the text encoder so that the denoiser fails on pictures of the concept.

    Textual inversion's loss with its sign turned: noise is added to a few pictures of the concept,
    the denoiser guesses it by the prompt, and the encoder's weights climb its error,
    ``L = -|eps(z_t, t, TE(p)) - eps|^2``. The denoiser stays as it is. There is no anchor: the
    concept becomes what is near, which the report lists. Seconds, and approximate: the bare form
    holds nothing, so other prompts drift, too, and more steps wreck the model.

    Differs from the paper:
        Prompts are the concept's own wordings, not its code's 27 and 19 templates.
        Without pictures the unedited model draws them from these prompts; the code's form without
        pictures cannot run. Given ones are encoded once, mirrored or not, as there.
        ``retention_weight`` is ours: the embeddings of kept prompts and of the empty one stay near
        those of the unedited encoder. So are ``hinge``, which bounds the loss, the two rules that
        stop early, and ``unconditional``.
    """

    name: ClassVar[str] = "few_shot"
    paper: ClassVar[Paper] = Paper(
        "Erasing Concepts from Text-to-Image Diffusion Models with Few-shot Unlearning",
        "2405.07288",
        2024,
    )
    edits: ClassVar[frozenset[str]] = frozenset({"text_encoder", "text_encoder_2"})
    reads_pictures: ClassVar[bool] = True
    weakened_by = ("lower learning_rate", "take fewer steps or epochs", "raise retention_weight")
    strengthened_by = ("raise learning_rate", "take more steps or epochs")

    parameters: EncoderPart = "feed_forward_last_attention"
    """Which weights of the text encoder's layers are trained: feed-forward layers and the attention
    of the last one that is read; one of the two in all layers; both; or the whole encoder."""
    pictures: Literal["given_or_drawn", "given"] = "given_or_drawn"
    """Whether the unedited model draws the pictures where none are given (--images), or that is
    refused, as in the paper."""
    trajectories: int = 8
    """Pictures that the unedited model draws, where none are given."""
    fit: Fit = "squash"
    """What becomes of given pictures that are not square: squash scales their sides apart, crop
    takes the middle."""
    flip: float = 0.5
    """Chance that a given picture is mirrored, decided once for each."""
    epochs: int = 5
    """Passes over the pictures, of as many steps as they have batches; 0: ``steps`` decides."""
    hinge: float = 0.0
    """Error from which on a picture is no longer trained on, so that the loss is bounded; 0: it is
    not, as in the paper."""
    retention_weight: float = 0.0
    """Weight of the mean squared distance of kept prompts' embeddings, and of the empty prompt's,
    to those of the unedited encoder; the denoiser is not asked. 0: none, as in the paper."""
    keep_batch: int = 16
    """Kept prompts per step whose embeddings are held, where they have weight."""
    stop_error: float = 0.0
    """Stops when the denoiser's error has risen by this factor, on every fifth wording of the
    concept, which is then not trained on (on all, if there are fewer than five); 0: never."""
    stop_drift: float = 0.0
    """Stops when kept prompts' embeddings are this far from the unedited encoder's, as a mean share
    of their size; 0: never."""
    check_every: int = 1
    """Steps between two looks at what may stop training."""
    unconditional: Literal["edited", "original"] = "edited"
    """Which encoder reads the empty prompt, from which guidance leads away: the edited one, as in
    the paper, or the unedited one, exactly. The latter holds where the delta is applied; exported
    weights cannot do it, and exporting is refused."""
    batch: int = 2
    """Pictures per step."""
    learning_rate: float = 1e-5
    """Step size of the optimiser."""
    optimiser: Literal["adam", "adamw", "adam_l2"] = "adam_l2"
    """Adam; AdamW, where weight_decay pulls the weights; or Adam that adds it to the gradient."""
    weight_decay: float = 1e-8
    """Pull of the weights to zero, of adamw and adam_l2."""
    betas: tuple[float, float] = (0.9, 0.98)
    """How much of their past the optimiser's averages of gradients and of their squares keep."""
    epsilon: float = 1e-6
    """What the optimiser adds to the root of the squares; gradients here are near it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "check_every")
        for name in ("epochs", "hinge", "retention_weight", "stop_error", "stop_drift"):
            if getattr(self, name) < 0:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.flip <= 1:
            raise BadRequest(f"flip is {self.flip}; it is a chance, of 0 to 1")
        if 0 < self.stop_error <= 1:
            raise BadRequest(
                f"stop_error is {self.stop_error}; it is a factor above 1, or 0 for never"
            )
        if self.retention_weight > 0 and self.keep_batch < 1:
            raise BadRequest("retention_weight needs kept prompts in every step; set keep_batch")
        if self.keep_weight > 0:
            raise BadRequest(
                f"keep_weight is {self.keep_weight} and holds a denoiser's predictions, which "
                "few_shot does not train; set retention_weight, which holds embeddings"
            )

    @classmethod
    def presets(cls) -> Mapping[str, FewShot]:
        """Gives the released code's settings, and those measured for the bundled model."""
        return {
            "released-2024": cls(pictures="given"),
            "released-2024-readme": cls(pictures="given", epochs=4),
            "emoji-bare": cls(sampling_steps=20, learning_rate=1e-3, epochs=4),
            "emoji": cls(
                sampling_steps=20,
                learning_rate=1e-3,
                epochs=0,
                steps=60,
                batch=4,
                retention_weight=3.0,
            ),
        }

    def chosen(self, model: Any, concepts: int = 1) -> dict[str, nn.Parameter]:  # noqa: ARG002
        """Lists weights of every text encoder that the pipeline has."""
        return encoder_parameters(model, self.parameters, self.edits)

    def check_request(self, request: ErasureRequest) -> None:
        """Refuses anchors, and concepts without the pictures that the settings ask for."""
        if anchors := [each.anchor.name for each in request.erasures if each.anchor]:
            raise BadRequest(
                f"few_shot steers to no anchor, and '{anchors[0]}' is given as one; leave --anchor "
                "out, or take a method that has one: uce, esd, concept_ablation"
            )
        require_pictures(request, all_of_them=self.pictures == "given")

    def erase(
        self,
        model: TextToImage,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Encodes or draws the pictures, then climbs the denoiser's error on them."""
        run = GradientRun(self, model, request, generator=generator, monitor=monitor)
        host, original = run.denoiser.host, self.unconditional == "original"
        if original:
            check_empty_prompt(host, self.name)
        pictures = Pictures.of(run, fit=self.fit, flip=self.flip)
        order = Epochs(len(pictures), self.batch)
        steps = -(-self.epochs * order.steps // self.accumulate) or self.steps
        aside = every_fifth(run) if self.stop_error else frozenset[int]()
        kept = [text for text in run.kept_wordings if text] or [""]

        with run.training(self.chosen(model)) as edit:
            drift, rules = Drift.of(run, empty=not original), []
            if self.stop_error:
                error = HeldError.of(run, pictures.latents, pictures.owner)
                rules.append(error.rule(self.stop_error))
            if self.stop_drift:
                rules.append(drift.rule(self.stop_drift))
            stop = StopRules(rules, every=self.check_every)

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                which = order.drawn(generator)
                texts = pictures.prompts(run, which, generator, without=aside)
                z, times = pictures.latents[which], run.times(len(which), generator)
                c = host.encode(texts, gradients=True)
                errors = noised_errors(run.denoiser, z, noise_like(z, generator), times, c)
                terms = {"erase": self._ascent(errors)}
                if self.retention_weight:
                    some = torch.randint(len(kept), (self.keep_batch,), generator=generator)
                    held = [kept[each] for each in some.tolist()]
                    now, before = held_embeddings(edit, host, held if original else ["", *held])
                    terms["retain"] = self.retention_weight * moved(now, before)
                return terms

            run.train(
                losses, edit.parameters, beside={"epochs": order}, steps=steps, stop=stop.or_none
            )
            ended, drifted = stop.told(steps), drift.told()
            patches = edit.patches()
        notes = [pictures.source, f"stopped: {ended['says']}"]
        result = run.result(patches, notes=notes, stopped=ended, drift=drifted)
        return replace(result, delta=replace(result.delta, empty_prompt=self.unconditional))

    def _ascent(self, errors: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """L = -E, for the error E = |eps(z_t, t, c) - eps|^2; with a hinge m, max(0, m - E)."""
        if self.hinge:
            return (self.hinge - errors).clamp(min=0).mean()
        return -errors.mean()
