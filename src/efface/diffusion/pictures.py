"""Pictures as clean latents, by the pipeline's own autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from efface.errors import BadModel
from efface.hosts.components import unwrapped
from efface.randomness import evaluating

__all__ = ["Fit", "latents_of", "pixels_of"]

Fit: TypeAlias = Literal["squash", "crop"]
"""How a picture that is not square becomes one: its sides are scaled apart, or its middle is cut
out."""


def latents_of(
    model: Any,
    pictures: Sequence[Image.Image],
    edge: tuple[int, int],
    *,
    fit: Fit = "squash",
    flip: float = 0.0,
    generator: torch.Generator,
) -> Float[Tensor, "n c h w"]:
    """Encodes pictures, each with one draw from what the autoencoder says of it.

    Args:
        model: a pipeline with its autoencoder ``vae``.
        pictures: RGB, of any size.
        edge: height and width of the latents.
        fit: how pictures of other shapes become the model's.
        flip: chance that a picture is mirrored.
        generator: of flips and of the autoencoder's draws.

    Raises:
        BadModel: the pipeline has no such autoencoder, or its latents are shifted and scaled by
            channel.
    """
    vae: Any = unwrapped(getattr(model, "vae", None))
    if vae is None or not hasattr(vae, "encode"):
        raise BadModel("the pipeline has no vae that encodes pictures; load the whole pipeline")
    if getattr(vae.config, "latents_mean", None) is not None:
        raise BadModel(
            "the vae scales its latents channel by channel (latents_mean), which is not built; "
            "leave the pictures out, so that the model draws them"
        )
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    height, width = (scale * side for side in edge)
    flips = torch.rand(len(pictures), generator=generator) < flip
    weight = next(vae.parameters())
    found = []
    with evaluating(vae), torch.no_grad():
        for picture, mirrored in zip(pictures, flips.tolist(), strict=True):
            sized = _sized(picture, (width, height), fit)
            pixels = _pixels(ImageOps.mirror(sized) if mirrored else sized).to(weight)
            sampled = vae.encode(pixels).latent_dist.sample(generator)
            shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
            found.append((sampled - shift) * float(vae.config.scaling_factor))
    return torch.cat(found)


def pixels_of(model: Any, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 height width"]:
    """Decodes clean latents to pixels of 0 to 1, differentiable by the latents."""
    config = model.vae.config
    shift = getattr(config, "shift_factor", None) or 0.0
    images: Tensor = model.vae.decode(latents / config.scaling_factor + shift).sample
    return (images.float() / 2 + 0.5).clamp(0, 1)


def _sized(picture: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    if fit == "crop":
        return ImageOps.fit(picture, size, Image.Resampling.BICUBIC)
    return picture.resize(size, Image.Resampling.BICUBIC)


def _pixels(picture: Image.Image) -> Float[Tensor, "1 3 h w"]:
    """Gives levels as values of -1 to 1."""
    levels = torch.from_numpy(np.asarray(picture, dtype=np.float32).copy())
    return levels.permute(2, 0, 1)[None] / 127.5 - 1
