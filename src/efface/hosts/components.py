"""From a pipeline or classifier to named parameters, under names that outlive library versions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch import nn

from efface.errors import BadDelta, BadModel

__all__ = [
    "KEY_VALUE",
    "TEXT_KEYS",
    "canonical",
    "component",
    "components",
    "find",
    "is_key_value",
    "key_value_names",
    "parameters",
    "reaches",
    "unwrapped",
]

KEY_VALUE = "unet/key_value"
"""Stands for every key and value weight of the cross-attention of ``unet``."""

TEXT_KEYS: dict[str, re.Pattern[str]] = {
    KEY_VALUE: re.compile(r"(^|\.)attn2\.to_[kv]\.weight$"),
    "unet/pooled_text": re.compile(r"^add_embedding\.linear_1\.weight$"),
    "transformer/key_value": re.compile(r"(^|\.)attn2\.to_[kv]\.weight$"),
    "transformer/text_tokens": re.compile(
        r"^(context_embedder|time_caption_embed\.caption_embedder\.1|txt_in"
        r"|patch_embed\.text_proj|cap_embedder\.1)\.weight$"
    ),
    "transformer/pooled_text": re.compile(r"^time_text_embed\.text_embedder\.linear_1\.weight$"),
}
"""Keys that stand for all layers that read the same text, with their canonical paths."""

_DROPPED_LEVELS = ("text_model", "language_model", "base_layer", "_orig_mod")
"""Levels that some library versions or adapters insert into a parameter's path.

transformers before 5.6 has ``text_model.`` in `CLIPTextModel`; peft wraps layers in ``base_layer``,
and torch.compile whole networks in ``_orig_mod``. Files of Qwen 2.5 VL lack ``language_model.``.
"""
_BESIDE = ("model.visual.", "model.vision_tower.", "model.multi_modal_projector.")
"""Towers for pictures that networks have inside; files of Qwen 2.5 VL and Mistral 3 beside."""
_TIED = {"encoder.embed_tokens.weight": "shared.weight"}
"""Weights with two names: T5's files have its token embedding under either or both."""


def components(model: Any) -> dict[str, nn.Module]:
    """Names the networks of a model: a pipeline's own names, or ``model`` for a bare network.

    Raises:
        BadModel: it is neither.
    """
    if isinstance(model, nn.Module):
        return {"model": unwrapped(model)}
    held = getattr(model, "components", None)
    named = held if isinstance(held, dict) else getattr(model, "__dict__", None)
    if named is None:
        raise BadModel(
            f"a {type(model).__name__} is no model; give a pipeline of diffusers, or what "
            "efface.load gives"
        )
    return {name: unwrapped(part) for name, part in named.items() if isinstance(part, nn.Module)}


def unwrapped(network: Any) -> Any:
    """Gives what torch.compile or data parallelism wraps; anything else as it is."""
    while isinstance(network, nn.Module):
        parallel = isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel)
        inner = network._modules.get("module" if parallel else "_orig_mod")
        if inner is None:
            break
        network = inner
    return network


def component(model: Any, name: str) -> nn.Module:
    """Gives one network by name.

    Raises:
        BadDelta: the model has no such network.
    """
    named = components(model)
    if name not in named:
        advice = (
            "give the pipeline that this network is of"
            if isinstance(model, nn.Module)
            else "the delta is for another kind of model"
        )
        raise BadDelta(
            f"this model has no component '{name}' (it has: {', '.join(named) or 'none'}); {advice}"
        )
    return named[name]


def canonical(path: str) -> str:
    """Writes a parameter path without the levels that come and go between library versions."""
    plain = ".".join(level for level in path.split(".") if level not in _DROPPED_LEVELS)
    plain = plain.removeprefix("model.") if plain.startswith(_BESIDE) else plain
    return _TIED.get(plain, plain)


def parameters(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Lists all parameters as ``<component>/<canonical path>``."""
    for name, module in components(model).items():
        for path, parameter in module.named_parameters():
            yield f"{name}/{canonical(path)}", parameter


def is_key_value(path: str) -> bool:
    """Says whether a parameter path is a cross-attention key or value weight."""
    return TEXT_KEYS[KEY_VALUE].search(path) is not None


def reaches(key: str, parameter: str) -> bool:
    """Says whether a key is a parameter's own or stands for layers that the parameter is among."""
    if key == parameter:
        return True
    name, _, path = parameter.partition("/")
    return key in TEXT_KEYS and key.startswith(f"{name}/") and bool(TEXT_KEYS[key].search(path))


def key_value_names(unet: nn.Module) -> dict[str, nn.Parameter]:
    """Lists the cross-attention key and value weights of a denoiser by canonical path."""
    named = ((canonical(path), parameter) for path, parameter in unet.named_parameters())
    return {path: parameter for path, parameter in named if is_key_value(path)}


def find(model: Any, key: str) -> dict[str, nn.Parameter]:
    """Gives the parameters behind a key: one, or all that a key of `TEXT_KEYS` stands for.

    Raises:
        BadDelta: the model has no such parameter.
    """
    name, _, path = key.partition("/")
    module = component(model, name)
    if key not in TEXT_KEYS and canonical(path) == path:
        with suppress(AttributeError):  # here its path has other levels
            return {key: module.get_parameter(path)}
    named = {canonical(each): weight for each, weight in module.named_parameters()}
    if key in TEXT_KEYS:
        found = {f"{name}/{each}": w for each, w in named.items() if TEXT_KEYS[key].search(each)}
    else:
        found = {key: named[path]} if path in named else {}
    if not found:
        raise BadDelta(f"this model has no parameter '{key}'; the delta is for another model")
    return found
