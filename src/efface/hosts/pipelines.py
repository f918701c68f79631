"""Kinds of pipelines: which draw from text alone, which can, and which need a picture."""

from __future__ import annotations

import inspect
import math
from typing import Any

from efface.errors import BadModel

__all__ = ["text_to_image"]

_OPTIONAL = ("Flux2KleinPipeline",)
"""Pipelines that draw from a prompt alone, and take pictures where they are given some."""
_CONTROLS = ("controlnet", "adapter", "image_encoder_2", "low_res_scheduler")


def text_to_image(pipe: Any) -> Any:
    """Gives a pipeline that draws from a prompt alone, with the same networks.

    One that starts from pictures (img2img, or inpainting with a usual denoiser) becomes the
    text-to-image pipeline of its family.

    Raises:
        BadModel: its denoiser reads a picture beside the noise, or it has a network that does.
    """
    name = type(pipe).__name__
    how = (
        "efface draws from prompts alone; draw in Python, with: "
        "with efface.Delta.load(RUN).apply(pipe): pipe(prompt, image=...)"
    )
    if control := next((part for part in _CONTROLS if getattr(pipe, part, None)), None):
        raise BadModel(f"a {name} is given pictures for its {control}, and {how}")
    network: Any = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    reads = int(network.config.in_channels)
    gives = int(getattr(network.config, "out_channels", None) or reads)
    patch = getattr(network.config, "patch_size", None) or 1
    packed = gives * (patch**2 if isinstance(patch, int) else math.prod(patch))
    if reads not in (gives, packed) and reads > gives:
        raise BadModel(
            f"the denoiser of this {name} reads {reads} channels and gives {gives}: it is given a "
            f"picture or a mask beside the noise, and {how}"
        )
    if name in _OPTIONAL or "image" not in inspect.signature(pipe.__call__).parameters:
        return pipe
    from diffusers import AutoPipelineForText2Image

    try:
        return AutoPipelineForText2Image.from_pipe(pipe)
    except ValueError as error:
        raise BadModel(f"a {name} starts from a picture, and {how}") from error
