"""Drawing samples with a diffusers pipeline: own seeds, counted work, nothing left behind."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from efface.contracts import Guide, Sample
from efface.errors import BadModel, BadRequest, MeasurementFailed
from efface.guiding import drawing as guiding
from efface.hosts.families import HOSTS
from efface.hosts.host import GuidanceKind, Host

if TYPE_CHECKING:
    from jaxtyping import UInt8

__all__ = ["Drawn", "draw", "draw_guided", "guidance_note", "guided_by"]


_USUAL = "guidance_scale"
"""Most pipelines' word for the scale of guidance."""
_KINDS: Mapping[GuidanceKind, str] = {
    "distilled": "what the distilled network is told, not classifier-free guidance",
    "none": "not used: this pipeline draws without guidance",
}


@dataclass(frozen=True)
class Drawn:
    """Pictures of one batch and what each of them cost."""

    pixels: UInt8[np.ndarray, "n h w 3"]
    seconds: float
    """Per picture."""
    evaluations: float
    """Network evaluations per picture; with guidance every step counts two."""
    changes: tuple[Mapping[str, float | None], ...] = ()
    """By picture and guide: the largest relative change at one step; None: none was meant."""


def draw(pipe: Any, samples: Sequence[Sample], *, steps: int, guidance: float) -> Drawn:
    """Draws one batch; every sample has its own generator, so the batch does not matter.

    Pictures of a sample agree between batch sizes up to the rounding of the last bit.

    Raises:
        MeasurementFailed: a picture is not finite, or the pipeline's safety checker replaced one
            by black, which a judge would take for an erased concept.
    """
    started = time.perf_counter()
    host = _host(pipe)
    asked = {} if host is None else host.drawing(steps)
    with _quiet(pipe), _counted(_denoiser(pipe)) as evaluations, torch.no_grad():
        output = pipe(
            prompt=[sample.prompt for sample in samples],
            generator=[torch.Generator().manual_seed(sample.seed) for sample in samples],
            num_inference_steps=steps,
            output_type="np",
            **_guidance(host, guidance, len(samples)),
            **asked,
        )
    if any(getattr(output, "nsfw_content_detected", None) or ()):
        raise MeasurementFailed(
            "the pipeline's safety checker blackened a picture, which would count as erased; "
            "load the pipeline with safety_checker=None to measure the model itself"
        )
    images = np.asarray(_pictures(output), dtype=np.float32)
    if not np.isfinite(images).all():
        raise MeasurementFailed(
            f"the model draws pictures that are not finite (first prompt: '{samples[0].prompt}')"
        )
    pixels = (images.clip(0, 1) * 255).round().astype(np.uint8)
    seconds = time.perf_counter() - started
    return Drawn(pixels, seconds / len(samples), evaluations[0] / len(samples))


def draw_guided(
    pipe: Any,
    samples: Sequence[Sample],
    guides: Sequence[Guide],
    *,
    steps: int,
    guidance: float,
) -> Drawn:
    """Draws one batch with guides, with the same seeds and scheduler as `draw`.

    Raises:
        BadRequest: a guide cannot work on this model or with these prompts, or the pipeline's own
            guidance is something else than that of guides.
        MeasurementFailed: a picture is not finite.
    """
    host = _host(pipe)
    if host is not None and host.guidance_kind != "free":
        raise BadRequest(
            f"this pipeline's guidance is {_KINDS[host.guidance_kind]}, and that of guides leads "
            "away from the empty prompt: pictures before and after would differ by that; draw with "
            "efface.guided, or measure without guides"
        )
    shots = [(sample.prompt, sample.seed) for sample in samples]
    try:
        drawn = guiding.draw(pipe, guides, shots, steps=steps, guidance=guidance)
    except BadModel as error:
        raise MeasurementFailed(str(error)) from error
    changes = tuple(
        {
            name: None if math.isnan(values[place]) else values[place]
            for name, values in drawn.changes.items()
        }
        for place in range(len(samples))
    )
    return Drawn(drawn.pixels, drawn.seconds, drawn.evaluations, changes)


def guided_by(pipe: Any) -> str:
    """Names the pipeline's word for guidance, where it is not ``guidance_scale``."""
    word = next(iter(_guidance(_host(pipe), 2.0, 1)))
    return "" if word == _USUAL else word


def guidance_note(pipe: Any, guidance: float) -> str | None:
    """Says what became of a scale of guidance where it is not classifier-free."""
    host = _host(pipe)
    if host is None or host.guidance_kind == "free":
        return None
    return f"guidance {guidance:g} is {_KINDS[host.guidance_kind]}"


def _host(pipe: Any) -> Host | None:
    return next((each(pipe) for each in HOSTS if each.recognises(pipe)), None)


def _guidance(host: Host | None, scale: float, count: int) -> dict[str, Any]:
    return {_USUAL: scale} if host is None else host.guidance_options(scale, count)


def _pictures(output: Any) -> Any:
    """Gives what a pipeline drew; of videos the first frames."""
    frames = getattr(output, "frames", None)
    return output.images if frames is None else frames[:, 0]


def _denoiser(pipe: Any) -> nn.Module:
    found: nn.Module | None = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    if found is None:
        raise MeasurementFailed("the pipeline has neither unet nor transformer to draw with")
    return found


@contextlib.contextmanager
def _counted(network: nn.Module) -> Iterator[list[int]]:
    """Counts rows that go through the network, in a list of one."""
    rows = [0]

    def count(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        # U-Nets and PixArt take latents first; SD 3 and FLUX by the name of ``hidden_states``.
        name = "sample" if "sample" in named else "hidden_states"
        latents: Tensor = given[0] if given else named[name]
        rows[0] += len(latents)

    handle = network.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


@contextlib.contextmanager
def _quiet(pipe: Any) -> Iterator[None]:
    """Silences the pipeline's own progress bar and puts its setting back."""
    held = getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(**{**(held or {}), "disable": True})
    try:
        yield
    finally:
        if held is None:
            vars(pipe).pop("_progress_bar_config", None)
        else:
            pipe.set_progress_bar_config(**held)
