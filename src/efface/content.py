"""Names what an object is by its content: settings, tensors, networks, tokenizers, functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["content_hash", "module_state", "tensor_hash"]

_DIGITS = 16
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_ADAPTERS = ("_active_adapter", "_disable_adapters")
"""Private fields of peft's layers that decide what they add."""
_PLACES = ("name_or_path",)
"""Fields that say where a network was loaded from."""


def content_hash(*values: Any) -> str:
    """Gives sixteen hex digits that depend on the content of values and on nothing else.

    Numbers, texts, containers, tensors, networks, tokenizers, functions and objects of any class
    count by their class and by what they hold. Paths do not count, since the same model may lie in
    any folder. Nor do whole numbers that an object may change as it works, which count calls as
    often as they set something: fields of frozen dataclasses count, and an object that has its own
    ``identity`` is named by that.
    """
    digest = hashlib.sha256()
    for piece in _pieces(values, set()):
        digest.update(piece if isinstance(piece, bytes) else piece.encode("utf-8", "replace"))
        digest.update(b"\0")
    return digest.hexdigest()[:_DIGITS]


def tensor_hash(tensor: Tensor) -> str:
    """Gives the SHA-256 of a tensor's bytes, as stored in memory."""
    import torch

    if tensor.device.type == "meta":
        return "not in memory"
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


def module_state(module: nn.Module) -> dict[str, str]:
    """Names what decides a network's output beside its parameters, by module path.

    Buffers, plain settings such as adapter scales or FreeU's factors, objects that compute
    attention, and hooks that are in force.
    """
    found = {}
    for path, each in module.named_modules(remove_duplicate=False):
        pieces = [*_settings_of(each), *_hooks_of(each)]
        own = {name: tensor_hash(one) for name, one in each.named_buffers(recurse=False)}
        if pieces or own:
            found[path] = content_hash(type(each).__qualname__, pieces, own)
    return found


def _pieces(value: Any, inside: set[int]) -> Iterator[str | bytes]:
    """Walks through a value; an object inside itself is only marked, so circles end."""
    if isinstance(value, _PLAIN):
        yield f"{type(value).__name__} {value!r}"
        return
    if isinstance(value, PurePath):
        yield "path"
        return
    if id(value) in inside:
        yield "itself"
        return
    inside.add(id(value))
    yield f"{type(value).__module__}.{type(value).__qualname__}"
    for part in _parts(value):
        yield from _pieces(part, inside)
    inside.remove(id(value))


def _parts(value: Any) -> Sequence[Any]:
    """Gives what an object consists of, as simpler values in a fixed order."""
    kind = _kind(value)
    if kind is not None:
        return kind(value)
    own = getattr(value, "identity", None)
    if isinstance(own, str):
        return [own]
    if is_dataclass(value) and not isinstance(value, type):
        frozen = value.__dataclass_params__.frozen  # type: ignore[attr-defined]
        named = {field.name: getattr(value, field.name, None) for field in fields(value)}
        return _items(named if frozen else _without_counters(named))
    return _items(_without_counters(getattr(value, "__dict__", {})))


def _kind(value: Any) -> Callable[[Any], Sequence[Any]] | None:
    """Says how to take a value apart whose class is known."""
    import numpy
    import torch

    kinds: list[tuple[Any, Callable[[Any], Sequence[Any]]]] = [
        (torch.Tensor, lambda one: [str(one.dtype), tuple(one.shape), tensor_hash(one)]),
        (numpy.ndarray, lambda one: [str(one.dtype), one.shape, one.tobytes()]),
        (torch.nn.Module, _network),
        ((str, bytes), lambda one: [str(one)]),
        (Mapping, _items),
        (Set, lambda one: sorted(content_hash(each) for each in one)),
        (Sequence, list),
        (type, lambda one: [one.__module__, one.__qualname__]),
        (CodeType, lambda one: [one.co_code, one.co_names, one.co_consts]),
        (FunctionType, _function),
        (MethodType, lambda one: [one.__func__, one.__self__]),
        (partial, lambda one: [one.func, one.args, one.keywords]),
    ]
    if hasattr(value, "backend_tokenizer"):
        return _tokenizer
    return next((how for kind, how in kinds if isinstance(value, kind)), None)


def _items(value: Mapping[Any, Any]) -> Sequence[Any]:
    return [part for name in sorted(value, key=str) for part in (str(name), value[name])]


def _without_counters(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in named.items() if type(one) is not int}


def _network(module: nn.Module) -> Sequence[Any]:
    weights = {
        name: (str(one.dtype), tuple(one.shape), tensor_hash(one))
        for name, one in module.named_parameters()
    }
    return [weights, module_state(module)]


def _tokenizer(value: Any) -> Sequence[Any]:
    """Gives the vocabulary and rules; how texts were last cut and filled up is no part of them."""
    rules = json.loads(value.backend_tokenizer.to_str())
    rules.pop("truncation", None), rules.pop("padding", None)
    length = min(int(getattr(value, "model_max_length", 0)), 10**9)
    return [json.dumps(rules, sort_keys=True), f"at most {length}"]


def _function(value: FunctionType) -> Sequence[Any]:
    """Gives code and what it holds; lists in a closure are where it keeps its own results."""
    cells = [cell.cell_contents for cell in value.__closure__ or ()]
    held = [one for one in cells if not isinstance(one, list) and not hasattr(one, "components")]
    return [value.__qualname__, value.__code__, value.__defaults__, held]


def _settings_of(module: nn.Module) -> list[Any]:
    """Lists plain settings, by name, and the object that computes attention, if there is one."""
    named = {
        name: one
        for name, one in vars(module).items()
        if (not name.startswith("_") or name in _ADAPTERS)
        if name not in _PLACES and _is_plain(one)
    }
    processor = getattr(module, "processor", None)
    return [named, *([] if processor is None else [processor])]


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _hooks_of(module: nn.Module) -> list[Any]:
    """Lists hooks in force; those that only move weights between devices change no picture."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return [
        one for one in hooks if not str(getattr(one, "__module__", "")).startswith("accelerate")
    ]
