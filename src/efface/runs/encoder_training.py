"""What is trained, held and measured where text encoders are trained through a frozen denoiser."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from efface.diffusion.denoising import Denoiser
from efface.errors import BadRequest
from efface.hosts.components import canonical, component
from efface.hosts.conditions import Conditions
from efface.hosts.families import host_of
from efface.hosts.host import Host
from efface.hosts.text_layers import TextPart, layer_count, text_layers
from efface.randomness import noise_like
from efface.runs.gradient_runs import GradientRun
from efface.training.parameters import Trained
from efface.training.stopping import StopRule

__all__ = [
    "Drift",
    "EncoderPart",
    "HeldError",
    "check_empty_prompt",
    "encoder_parameters",
    "every_fifth",
    "held_embeddings",
    "moved",
    "noised_errors",
]

EncoderPart: TypeAlias = Literal[
    "feed_forward_last_attention", "feed_forward", "attention", "feed_forward_attention", "all"
]
"""Parts of text encoders that are trained."""

_PARTS: dict[str, tuple[TextPart, ...]] = {
    "feed_forward_last_attention": ("feed_forward",),
    "feed_forward": ("feed_forward",),
    "attention": ("attention",),
    "feed_forward_attention": ("feed_forward", "attention"),
}
FIFTH = 5
HELD = 16
"""Noised pictures on which the error is measured, the same ones each time."""
WATCHED = 16
"""Kept prompts whose drift is measured."""


def encoder_parameters(
    model: Any, part: EncoderPart, encoders: Collection[str]
) -> dict[str, nn.Parameter]:
    """Lists weights of a pipeline's text encoders, in the layers that the denoiser reads.

    Args:
        model: a pipeline.
        part: which; the last attention is that of the last layer that is read.
        encoders: by name; those that the pipeline lacks are passed over.

    Raises:
        BadRequest: the layers of an encoder are not known by name.
    """
    host = host_of(model)
    found: dict[str, nn.Parameter] = {}
    for name in sorted(encoders):
        if getattr(model, name, None) is None:
            continue
        read = layer_count(model, name) - host.unread_layers.get(name, 0)
        if part == "all":
            named = component(model, name).named_parameters()
            found |= {f"{name}/{canonical(path)}": weight for path, weight in named}
            continue
        for each in _PARTS[part]:
            found |= text_layers(model, each, layers=range(read), encoder=name)
        if part == "feed_forward_last_attention":
            found |= text_layers(model, "attention", layers=[read - 1], encoder=name)
    return found


def check_empty_prompt(host: Host, name: str) -> None:
    """Refuses to leave the empty prompt to the unedited encoder where that would not be exact.

    Raises:
        BadRequest: the denoiser reads inner layers or a pooled row.
    """
    if len(host.readers) > 1:
        raise BadRequest(
            f"{name} leaves the empty prompt to the unedited encoder only where the denoiser reads "
            f"nothing but its last rows, which {host.title} does not; set unconditional to edited"
        )


def noised_errors(
    denoiser: Denoiser,
    clean: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    times: Float[Tensor, " n"],
    conditions: Conditions,
) -> Float[Tensor, " n"]:
    """Gives the denoiser's mean squared error on each noised picture: ``|eps(z_t, t, c) - eps|^2``.

    Where it predicts a velocity, its error is that of the velocity.
    """
    process = denoiser.process
    prediction = denoiser.predict(process.noised(clean, noise, times), times, conditions)
    errors: Tensor = (prediction - process.truth(clean, noise, times)).square().flatten(1).mean(1)
    return errors


def moved(now: Conditions, before: Conditions) -> Float[Tensor, ""]:
    """Gives the mean squared distance of rows, plus that of pooled rows where there are some."""
    distance = (now.rows - before.rows).square().mean()
    if now.pooled is not None and before.pooled is not None:
        distance = distance + (now.pooled - before.pooled).square().mean()
    return distance


def every_fifth(run: GradientRun) -> frozenset[int]:
    """Numbers every fifth wording of each concept; none of one that has fewer."""
    owned = [(run.owners == each).nonzero()[:, 0].tolist() for each in run.owners.unique()]
    return frozenset(number for numbers in owned for number in numbers[FIFTH - 1 :: FIFTH])


@dataclass(frozen=True, eq=False)
class HeldError:
    """The denoiser's error on fixed noised pictures and prompts, against what it was."""

    run: GradientRun
    clean: Float[Tensor, "n c h w"]
    noise: Float[Tensor, "n c h w"]
    times: Float[Tensor, " n"]
    texts: tuple[str, ...]
    before: float
    """With the unedited encoder."""

    @classmethod
    def of(
        cls, run: GradientRun, latents: Float[Tensor, "m c h w"], owner: Int[Tensor, " m"]
    ) -> HeldError:
        """Draws what is measured on, once, and measures it on the weights as they are.

        Args:
            run: has the prompts.
            latents: of pictures.
            owner: which erasure each is of.
        """
        generator, held = run.draws["beside"], every_fifth(run)
        which = torch.arange(HELD) % len(latents)
        clean = latents[which]
        noise = noise_like(clean, generator)
        every = len(run.denoiser.process.noise)
        times = (every * (torch.arange(HELD, dtype=torch.float64) + 0.5) / HELD).floor()
        texts = []
        for place, number in enumerate(owner[which].tolist()):
            own = (run.owners == number).nonzero()[:, 0].tolist()
            usable = [each for each in own if each in held] or own
            texts.append(run.wordings[usable[place % len(usable)]].prompt)
        # Errors of noise near the end are near zero, so times are spread over all of them.
        order = torch.randperm(HELD, generator=generator)
        made = cls(run, clean, noise, times[order], tuple(texts), before=1.0)
        return cls(run, clean, noise, times[order], tuple(texts), before=made.rise())

    def rise(self) -> float:
        """Gives the error on the weights as they are, as a multiple of what it was."""
        denoiser = self.run.denoiser
        with denoiser.inference_mode():
            conditions = denoiser.host.encode(self.texts)
            found = noised_errors(denoiser, self.clean, self.noise, self.times, conditions)
        return float(found.mean()) / self.before

    def rule(self, factor: float) -> StopRule:
        """Stops when the error has risen by a factor."""
        says = "the error on wordings of the concept was {} times what it had been"
        return StopRule("error", self.rise, factor, says)


@dataclass(frozen=True, eq=False)
class Drift:
    """How far embeddings of prompts are from the unedited encoder's, as a share of their size."""

    run: GradientRun
    kept: tuple[str, ...]
    """Prompts that should stay, without the empty one."""
    empty: bool
    """Whether the edited encoder reads the empty prompt, too."""
    before: Conditions
    """Of the kept prompts, then of the empty one, by the unedited encoder."""

    @classmethod
    def of(cls, run: GradientRun, *, empty: bool) -> Drift:
        """Takes kept prompts that lie evenly among all, and encodes them with the weights now.

        Args:
            run: has the prompts.
            empty: whether the edited encoder reads the empty prompt, too.
        """
        texts = [text for text in run.kept_wordings if text]
        kept = tuple(texts[:: max(1, len(texts) // WATCHED)][:WATCHED])
        return cls(run, kept, empty, run.denoiser.host.encode([*kept, ""]))

    def told(self) -> dict[str, float]:
        """Gives the mean over kept prompts, and the empty prompt's own, on the weights as they are.

        Without kept prompts the first is not there.
        """
        now = self.run.denoiser.host.encode([*self.kept, ""])
        apart = (now.rows - self.before.rows).flatten(1).norm(dim=1)
        shares = apart / self.before.rows.flatten(1).norm(dim=1).clamp(min=1e-30)
        found = {"kept": float(shares[:-1].mean())} if self.kept else {}
        return found | {"empty": float(shares[-1]) if self.empty else 0.0}

    def share(self) -> float:
        """Gives what the rule looks at: kept prompts, or the empty one where there are none."""
        found = self.told()
        return found.get("kept", found["empty"])

    def rule(self, limit: float) -> StopRule:
        """Stops when kept prompts have moved by a share of their size."""
        says = "kept prompts' embeddings were {} of their size away from the unedited ones"
        return StopRule("drift", self.share, limit, says)


def held_embeddings(
    edit: Trained, host: Host, texts: Sequence[str]
) -> tuple[Conditions, Conditions]:
    """Encodes prompts with the encoder in training, and with the unedited one."""
    with edit.teacher():
        before = host.encode(texts)
    return host.encode(texts, gradients=True), before
