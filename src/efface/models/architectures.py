"""Where the parts of a model that methods edit are found, by role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from efface.errors import BadRequest
from efface.models.components import canonical, component

__all__ = ["FAMILIES", "ROLES", "Role", "layout", "members"]


@dataclass(frozen=True)
class Role:
    """A part of a model: a component and a pattern for canonical parameter paths in it."""

    component: str
    pattern: str
    meaning: str


ROLES: dict[str, Role] = {
    "key_value": Role("unet", r"attn2\.to_[kv]\.weight$", "what cross-attention reads from text"),
    "cross_attention": Role("unet", r"(^|\.)attn2\.", "all of cross-attention"),
    "self_attention": Role("unet", r"(^|\.)attn1\.", "all of self-attention"),
    "unconditional": Role("unet", r"^(?!.*(^|\.)attn2\.)", "the denoiser without cross-attention"),
    "unet": Role("unet", r"", "the whole denoiser"),
    "text_mlp": Role("text_encoder", r"\.mlp\.fc[12]\.", "the text encoder's feed-forward layers"),
    "text_attention": Role("text_encoder", r"\.self_attn\.", "the text encoder's attention"),
    "text_embeddings": Role("text_encoder", r"token_embedding\.weight$", "one row per token"),
    "text_encoder": Role("text_encoder", r"", "the whole text encoder"),
}


def members(model: Any, role: str) -> dict[str, nn.Parameter]:
    """Lists the parameters of a role as ``<component>/<canonical path>``.

    Raises:
        BadRequest: the role is unknown, or the model has nothing in that role.
    """
    if role not in ROLES:
        raise BadRequest(f"there is no role '{role}'; known: {', '.join(ROLES)}")
    place = ROLES[role]
    named = component(model, place.component).named_parameters()
    found = {
        f"{place.component}/{canonical(path)}": parameter
        for path, parameter in named
        if re.search(place.pattern, canonical(path))
    }
    if not found:
        raise BadRequest(f"this model has nothing in the role '{role}' ({place.meaning})")
    return found


FAMILIES: dict[str, str] = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3 and 3.5",
    "flux": "FLUX.1",
    "pixart": "PixArt",
}
"""The families of text-to-image models whose text layers are known."""

_TRANSFORMERS = {
    "SD3Transformer2DModel": "sd3",
    "FluxTransformer2DModel": "flux",
    "PixArtTransformer2DModel": "pixart",
}


def layout(model: Any) -> str:
    """Names the layout of a text-to-image model: a key of `FAMILIES`, or ``other``.

    Anything that has the parts and their configs will do, such as a folder that is not loaded:
    classes are compared by name. Widths do not matter, so that small models of a layout count as
    that layout. SD 2.x differs from 1.x by linear projections around its attention blocks, SDXL by
    a second text encoder.
    """
    transformer = getattr(model, "transformer", None)
    if transformer is not None:
        return next(
            (_TRANSFORMERS[n] for n in _class_names(transformer) if n in _TRANSFORMERS), "other"
        )
    config = getattr(getattr(model, "unet", None), "config", None)
    if config is None or not hasattr(config, "cross_attention_dim"):
        return "other"
    # Denoisers that project what they read from elsewhere first, such as pictures or T5.
    if getattr(config, "encoder_hid_dim_type", None) is not None:
        return "other"
    if getattr(model, "text_encoder_2", None) is not None:
        return "sdxl"
    return "sd2" if getattr(config, "use_linear_projection", False) else "sd1"


def _class_names(network: Any) -> Iterator[str]:
    """Names a network's class as it is and as its config says; old PixArt files say less."""
    config = getattr(network, "config", None)
    yield type(network).__name__
    named = str(getattr(config, "_class_name", ""))
    if named == "Transformer2DModel" and getattr(config, "norm_type", "") == "ada_norm_single":
        named = "PixArtTransformer2DModel"
    yield named
