"""Where the parts of a model that methods edit are found, by role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from efface.errors import BadRequest
from efface.hosts.components import canonical, component

__all__ = ["FAMILIES", "ROLES", "Role", "layout", "members"]


@dataclass(frozen=True)
class Role:
    """A part of a model: a component and a pattern for canonical parameter paths in it."""

    component: str
    pattern: str
    meaning: str
    transformer: str = ""
    """The pattern in a ``transformer``, where it stands in for ``unet``; empty: there is none."""
    layers: bool = False
    """Only weights and biases of linear layers and convolutions, so no norms."""


_CROSS, _TEXT = r"(^|\.)attn2\.", r"\.attn\.(add_[qkv]_proj|to_add_out)\."

ROLES: dict[str, Role] = {
    "key_value": Role(
        "unet",
        r"attn2\.to_[kv]\.weight$",
        "what cross-attention reads from text",
        r"\.attn\.add_[kv]_proj\.weight$",
    ),
    "cross_attention": Role("unet", _CROSS, "all of cross-attention", _TEXT),
    "self_attention": Role(
        "unet", r"(^|\.)attn1\.", "all of self-attention", r"\.attn\.to_(q|k|v|out)\b"
    ),
    "early_attention": Role(
        "unet",
        r"(^|\.)(attn1\.|attn2\.to_q\.)",
        "self-attention and what asks the text",
        r"\.attn\.to_(q|k|v|out)\b",
    ),
    "queries": Role(
        "unet", r"(^|\.)attn[12]\.to_q\.", "what asks pictures and text", r"\.attn\.to_q\b"
    ),
    "attention_blocks": Role(
        "unet",
        r"(^|\.)attentions\.\d+\..*\.weight$",
        "linear layers and 1x1 convolutions of attention blocks",
        r"transformer_blocks\.\d+\..*\.weight$",
        layers=True,
    ),
    "not_cross_attention": Role(
        "unet",
        rf"^(?!.*{_CROSS})",
        "layers other than cross-attention",
        rf"^(?!.*{_TEXT})",
        layers=True,
    ),
    "not_cross_attention_paper": Role(
        "unet",
        rf"^(?!.*{_CROSS})(?!(time_embedding|conv_norm_out|conv_out)\.)",
        "everything but cross-attention, the time embedding and the output",
    ),
    "unconditional": Role("unet", rf"^(?!.*{_CROSS})", "the denoiser without cross-attention"),
    "layers": Role("unet", r"", "all linear layers and convolutions", r"^", layers=True),
    "unet": Role("unet", r"", "the whole denoiser", r"^"),
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
    name, pattern = place.component, place.pattern
    if name == "unet" and getattr(model, "transformer", None) is not None:
        name, pattern = "transformer", place.transformer or "$^"
    found = {
        f"{name}/{path}": parameter
        for path, parameter in _named(component(model, name), layers=place.layers)
        if re.search(pattern, path)
    }
    if not found:
        raise BadRequest(f"this model has nothing in the role '{role}' ({place.meaning})")
    return found


def _named(network: nn.Module, *, layers: bool) -> Iterator[tuple[str, nn.Parameter]]:
    """Lists parameters by canonical path, of all modules or of layers alone."""
    for path, module in network.named_modules():
        if layers and not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            yield canonical(name), parameter


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
