"""Where the parts of a model that methods edit are found, by role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from efface.errors import BadRequest
from efface.hosts.components import canonical, component

__all__ = ["ROLES", "Role", "members"]


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
    "attention": Role("unet", r"(^|\.)attn[12]\.", "all of attention", r"\.attn\."),
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
    "not_cross_attention_xl": Role(
        "unet",
        rf"^(?=.*block)(?!.*emb)(?!.*{_CROSS})",
        "layers of blocks other than cross-attention and embeddings",
        layers=True,
    ),
    "layers_xl": Role(
        "unet", r"^(?=.*block)(?!.*emb)", "layers of blocks other than embeddings", layers=True
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
