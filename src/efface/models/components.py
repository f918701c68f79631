"""From a pipeline or classifier to named parameters, under names that outlive library versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from efface.errors import BadDelta

__all__ = [
    "KEY_VALUE",
    "canonical",
    "component",
    "components",
    "find",
    "is_key_value",
    "key_value_names",
    "parameters",
]

KEY_VALUE = "unet/key_value"
"""Stands for every key and value weight of the cross-attention of ``unet``."""

_DROPPED_LEVELS = ("text_model", "base_layer")
"""Levels that some library versions or adapters insert into a parameter's path.

transformers before 5.6 has ``text_model.`` in `CLIPTextModel`; peft wraps layers in ``base_layer``.
"""


def components(model: Any) -> dict[str, nn.Module]:
    """Names the networks of a model: a pipeline's own names, or ``model`` for a bare network."""
    if isinstance(model, nn.Module):
        return {"model": model}
    held = getattr(model, "components", None)
    named = held if isinstance(held, dict) else vars(model)
    return {name: part for name, part in named.items() if isinstance(part, nn.Module)}


def component(model: Any, name: str) -> nn.Module:
    """Gives one network by name.

    Raises:
        BadDelta: the model has no such network.
    """
    named = components(model)
    if name not in named:
        raise BadDelta(
            f"this model has no component '{name}' (it has: {', '.join(named) or 'none'}); "
            "the delta is for another kind of model"
        )
    return named[name]


def canonical(path: str) -> str:
    """Writes a parameter path without the levels that come and go between library versions."""
    return ".".join(level for level in path.split(".") if level not in _DROPPED_LEVELS)


def parameters(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Lists all parameters as ``<component>/<canonical path>``."""
    for name, module in components(model).items():
        for path, parameter in module.named_parameters():
            yield f"{name}/{canonical(path)}", parameter


def is_key_value(path: str) -> bool:
    """Says whether a parameter path is a cross-attention key or value weight."""
    levels = path.split(".")
    return len(levels) > 2 and levels[-3] == "attn2" and _reads_text(levels)


def _reads_text(levels: list[str]) -> bool:
    return levels[-2] in ("to_k", "to_v") and levels[-1] == "weight"


def key_value_names(unet: nn.Module) -> dict[str, nn.Parameter]:
    """Lists the cross-attention key and value weights of a denoiser by canonical path."""
    named = ((canonical(path), parameter) for path, parameter in unet.named_parameters())
    return {path: parameter for path, parameter in named if is_key_value(path)}


def find(model: Any, key: str) -> dict[str, nn.Parameter]:
    """Gives the parameters behind a key: one, or all keys and values for `KEY_VALUE`.

    Raises:
        BadDelta: the model has no such parameter.
    """
    name, _, path = key.partition("/")
    module = component(model, name)
    if key == KEY_VALUE:
        found = {f"{name}/{each}": weight for each, weight in key_value_names(module).items()}
    else:
        named = {canonical(each): weight for each, weight in module.named_parameters()}
        found = {key: named[path]} if path in named else {}
    if not found:
        raise BadDelta(f"this model has no parameter '{key}'; the delta is for another model")
    return found
