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
    """The pattern in a ``transformer``, where it stands in for ``unet``; empty: there is none.

    Where a transformer's blocks attend to the picture first and then to text, as a U-Net's do, the
    U-Net's patterns of attention hold.
    """
    layers: bool = False
    """Only weights and biases of linear layers and convolutions, so no norms."""


_CROSS, _TEXT = r"(^|\.)attn2\.", r"\.attn\.(add_[qkv]_proj|to_add_out)\."
_ATTENTION = r"\.(attn[12]?|attention)\."
_OWN = rf"{_ATTENTION}to_(q|k|v|out|qkv_mlp_proj)\b"
_BLOCKS = (
    r"^(?!.*\.conv_depth\.)(.*transformer_blocks|blocks|layers|(noise|context)_refiner)\.\d+\."
)

ROLES: dict[str, Role] = {
    "key_value": Role(
        "unet",
        r"attn2\.to_[kv]\.weight$",
        "what cross-attention reads from text",
        r"\.attn\.add_[kv]_proj\.weight$",
    ),
    "cross_attention": Role("unet", _CROSS, "all of cross-attention", _TEXT),
    "self_attention": Role("unet", r"(^|\.)attn1\.", "all of self-attention", _OWN),
    "attention": Role("unet", r"(^|\.)attn[12]\.", "all of attention", _ATTENTION),
    "early_attention": Role(
        "unet",
        r"(^|\.)(attn1\.|attn2\.to_q\.)",
        "self-attention and what asks the text",
        _OWN,
    ),
    "queries": Role(
        "unet", r"(^|\.)attn[12]\.to_q\.", "what asks pictures and text", rf"{_ATTENTION}to_q\b"
    ),
    "attention_blocks": Role(
        "unet",
        r"(^|\.)attentions\.\d+\..*\.weight$",
        "linear layers and 1x1 convolutions of attention blocks",
        rf"{_BLOCKS}(?!.*conv_depth).*\.weight$",
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
    found = _members(model, ROLES[role])
    if not found:
        held = [
            name
            for name, other in ROLES.items()
            if other.component == ROLES[role].component and _members(model, other)
        ]
        raise BadRequest(
            f"this model has nothing in the role '{role}' ({ROLES[role].meaning}); "
            f"it has {', '.join(held)}"
        )
    return found


def _members(model: Any, place: Role) -> dict[str, nn.Parameter]:
    """Lists the parameters of a role, of which there may be none."""
    name, pattern = place.component, place.pattern
    if name == "unet" and getattr(model, "transformer", None) is not None:
        name = "transformer"
        if not ("attn" in pattern and place.transformer and _crosses(component(model, name))):
            pattern = place.transformer or "$^"
    return {
        f"{name}/{path}": parameter
        for path, parameter in _named(component(model, name), layers=place.layers)
        if re.search(pattern, path)
    }


def _crosses(transformer: nn.Module) -> bool:
    """Says whether blocks have an attention of pictures and one of text, in this order."""
    paths = [path for path, _ in transformer.named_modules()]
    return all(any(path.endswith(name) for path in paths) for name in (".attn1", ".attn2"))


def _named(network: nn.Module, *, layers: bool) -> Iterator[tuple[str, nn.Parameter]]:
    """Lists parameters by canonical path, of all modules or of layers alone."""
    for path, module in network.named_modules():
        if layers and not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            yield canonical(name), parameter
