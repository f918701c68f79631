"""Tensors of a file as patches of a model: every key is read, refused, or told as unused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface.deltas.patches import DensePatch, LowRankPatch, Patch, added
from efface.errors import BadDelta, MissingInput
from efface.exchange.dora import check_magnitude, decomposed
from efface.exchange.lora_keys import (
    MAGNITUDES,
    LoraLayer,
    alpha_of,
    foreign_kind,
    is_named_by_peft,
    lora_layers,
    low_rank,
)
from efface.exchange.networks import (
    NETWORKS,
    Network,
    claim,
    denoiser,
    networks,
    without_wrapper,
)
from efface.exchange.original_layers import renamed
from efface.exchange.sources import Place, Source, load
from efface.hosts.components import canonical

__all__ = ["Reading", "difference", "read"]

_SHOWN = 5
"""Keys that a refusal lists."""
_FLOATS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
)
_ADDED_WORDS = re.compile(r"^(<.*>|emb_params|string_to_param\b.*|clip_[lg]|t5(xxl)?)$")
"""Names in files of textual inversion."""


@dataclass
class Reading:
    """What became of every key."""

    parts: dict[str, Network]
    only: str | None
    """The one network that is read; without it, all are."""
    patches: dict[str, Patch] = field(default_factory=dict)
    low_rank: bool = False
    """Whether there were LoRA layers."""
    decomposed: list[str] = field(default_factory=list)
    """Keys of weights that layers of DoRA change."""
    unused: list[str] = field(default_factory=list)
    """Keys of nothing in the model, or of networks that were not asked for."""
    notes: list[str] = field(default_factory=list)
    """What was taken for granted."""
    not_understood: list[str] = field(default_factory=list)
    """Keys of layers that the model has."""
    lacking: list[str] = field(default_factory=list)
    """Keys of layers and networks that the model lacks."""
    found: dict[str, tuple[str, Tensor]] = field(default_factory=dict)
    """Weights by key, with the name in the file."""

    @property
    def layout(self) -> str:
        """Names what the files are, by the most special of their layers."""
        return "DoRA" if self.decomposed else "LoRA" if self.low_rank else "edited weights"


def read(places: Iterable[Place], model: Any, only: str | None) -> Reading:
    """Reads LoRA layers, differences and edited weights against the networks of a model.

    Args:
        places: what is stored.
        model: the base.
        only: a network to read alone.

    Raises:
        MissingInput: the model has no such network.
        BadDelta: keys that are not understood or that the model lacks, other shapes, values that
            are not finite, two that contradict each other; or nothing of the model is meant.
    """
    parts = networks(model)
    if only is not None and only not in parts:
        raise MissingInput(f"the base has no {only} (it has: {', '.join(parts)})")
    reading = Reading(parts, only)
    names: list[str] = []
    places = list(places)
    if all(_is_aside(reading, place) for place in places):
        raise MissingInput(
            f"the folder holds {', '.join(f'{place.part}/' for place in places)}, and none is a "
            f"network that is read ({only or ', '.join(parts)}); name one of them itself"
        )
    for place in places:
        if _is_aside(reading, place):
            names.append(f"{place.part}/")
            reading.unused.append(f"{place.part}/")
            continue
        source = load(place)
        tensors = renamed(source.tensors, model)
        if (inner := without_wrapper(tensors, parts)) is not tensors:
            tensors = renamed(inner, model)
        source = replace(source, tensors=tensors)
        names += source.tensors
        _read_one(reading, source)
    if reading.decomposed:
        reading.notes.append(
            f"{len(reading.decomposed)} layers are of DoRA, whose change is not a sum: it is read "
            "as the dense change of this base at strength 1, and other scales lie on the line "
            "between the two"
        )
    _refuse_rest(reading, names)
    return reading


def difference(
    value: Float[Tensor, "*shape"], weight: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Gives what was changed, without what the file's or the base's dtype rounded off.

    A value that is the base's in the coarser of the two dtypes was not edited. Files in float32
    may hold what was float16 or bfloat16 before; so they are compared in that, if all values fit.
    """
    given, base = value.to(torch.float32), weight.detach().to("cpu", torch.float32)
    coarse = [dtype for dtype in (torch.float16, torch.bfloat16) if _fits(given, dtype)]
    same = given == base
    for dtype in (value.dtype, weight.dtype, *coarse):
        same |= given.to(dtype).float() == base.to(dtype).float()
    return torch.where(same, 0.0, given - base)


def _is_aside(reading: Reading, place: Place) -> bool:
    """Says whether a folder is of a network that is not asked for, or that draws no pictures."""
    if place.part is None:
        return False
    if reading.only is not None:
        return place.part != reading.only
    return place.part not in reading.parts and place.part not in NETWORKS


def _fits(value: Tensor, dtype: torch.dtype) -> bool:
    return torch.equal(value.to(dtype).float(), value)


def _read_one(reading: Reading, source: Source) -> None:
    layers = lora_layers(source.tensors)
    used = {key for layer in layers.values() for key in layer.keys}
    for name, layer in layers.items():
        _read_layer(reading, source, name, layer)
    for name, value in source.tensors.items():
        if name not in used:
            _read_weight(reading, source, name, value)


def _read_layer(reading: Reading, source: Source, name: str, layer: LoraLayer) -> None:
    place = _place(reading, source, name, _layer_or_parameter, layer.keys)
    if place is None:
        return
    network, path = place
    for role, key in zip(layer.tensors, layer.keys, strict=True):
        _check_values(key, layer.tensors[role] if role != "alpha" else layer.tensors[role].float())
    if layer.low:
        _read_low(reading, source, name, layer, (network, path))
    elif any(role in layer.tensors for role in (*MAGNITUDES, "shift")):
        reading.not_understood += layer.keys
    for role in ("weight", "bias"):
        if role not in layer.tensors:
            continue
        own = path if path in network.weights else f"{path}.{role}"  # a parameter in no layer
        key, target = f"{network.part}/{own}", network.weights.get(own)
        if target is None:
            reading.not_understood += layer.keys
            continue
        change = _shaped(name, layer.tensors[role], target, key).float()
        _add(reading, key, DensePatch(change))


def _read_low(
    reading: Reading, source: Source, name: str, layer: LoraLayer, place: tuple[Network, str]
) -> None:
    network, path = place
    key, weight = f"{network.part}/{path}.weight", network.weights[f"{path}.weight"]
    scale = _scale(reading, source, name, layer, (network.part, path))
    patch = low_rank(key, layer, network.layers[path], weight, scale)
    reading.low_rank = True
    if "shift" in layer.tensors:
        if layer.decomposed or "bias" in layer.tensors:
            reading.not_understood += layer.keys
        else:  # The layer adds it with what the matrices give, at their scale.
            layer.tensors["bias"] = layer.tensors["shift"].float() * scale
    if not layer.decomposed:
        _add(reading, key, patch, again=False)
        return
    if key in reading.patches:
        raise _beside_decomposed(key)
    _add(reading, key, decomposed(key, layer, patch, weight))
    reading.decomposed.append(key)


def _layer_or_parameter(network: Network, path: str) -> str | None:
    """Finds a layer, or a parameter that is in none, such as a table of shifts and scales."""
    return network.layer(path) or (path if path in network.weights else None)


def _scale(
    reading: Reading, source: Source, name: str, layer: LoraLayer, place: tuple[str, str]
) -> float:
    part, path = place
    if not all(layer.tensors[side].ndim > 1 for side in ("up", "down")):
        raise BadDelta(f"the LoRA's tensors of {name} are no matrices; the file is damaged")
    rank = len(layer.tensors["down"])
    if not rank:
        raise BadDelta(f"the LoRA's matrices of {name} have rank 0; the file is damaged")
    alpha = alpha_of(name, layer)
    settings = source.settings.get(part, source.settings.get(None))
    paths = (claim(name, reading.parts).path, path)
    check_magnitude(name, layer, settings)
    said = settings.scale(paths, rank) if settings is not None else None
    if alpha is not None and said is not None and abs(alpha / rank - said) > 1e-4 * abs(said):
        raise BadDelta(
            f"'{name}.alpha' is {alpha:g} of rank {rank}, a scale of {alpha / rank:g}, and "
            f"{settings.origin if settings else ''} says {said:g}; the files contradict each other"
        )
    named = is_named_by_peft(layer.key_of("down"))
    if alpha is None and said is None and named and not reading.notes:
        reading.notes.append(
            "peft's adapter_config.json, which says alpha, is not beside the file: alpha is taken "
            "as the rank"
        )
    return alpha / rank if alpha is not None else 1.0 if said is None else said


def _read_weight(reading: Reading, source: Source, name: str, value: Tensor) -> None:
    if _is_unchanged_buffer(reading, source, name, value):
        return
    place = _place(
        reading, source, name, lambda network, path: network.weight(path), [name], value.numel()
    )
    if place is None:
        return
    network, path = place
    key, weight = f"{network.part}/{path}", network.weights[path]
    _check_values(name, value)
    value = _shaped(name, value, weight, key)
    if key in reading.found and not torch.equal(reading.found[key][1].float(), value.float()):
        raise BadDelta(
            f"'{reading.found[key][0]}' and '{name}' are the same weight {key} and differ; "
            "name one file, or one network with --part"
        )
    if key not in reading.found:
        reading.found[key] = (name, value)
        _add(reading, key, DensePatch(difference(value, weight)))


def _place(
    reading: Reading,
    source: Source,
    name: str,
    find: Callable[[Network, str], str | None],
    keys: list[str],
    size: int | None = None,
) -> tuple[Network, str] | None:
    """Finds the network and the path in it that a name is of; notes what it is not."""
    told = claim(name, reading.parts)
    part = told.part or source.part
    if part is not None and reading.only not in (None, part):
        reading.unused += keys
        return None
    asked = [each for each in (part, reading.only) if each is not None][:1] or list(reading.parts)
    within = [reading.parts[each] for each in asked if each in reading.parts]
    places = [(each, path) for each in within if (path := find(each, told.path)) is not None]
    if len(places) > 1 and size is not None:
        places = [p for p in places if p[0].weights[p[1]].numel() == size] or places[:1]
    if len(places) > 1:
        raise BadDelta(
            f"'{name}' is in {' and in '.join(each.part for each, _ in places)}; "
            "say which one with --part"
        )
    if places:
        return places[0][0].editable, places[0][1]
    if any(each.within(told.path) for each in within):
        reading.not_understood += keys
    elif part is not None or size is None or any(each.holds(told.path) for each in within):
        reading.lacking += keys
    else:
        reading.unused += keys
    return None


def _is_unchanged_buffer(reading: Reading, source: Source, name: str, value: Tensor) -> bool:
    told = claim(name, reading.parts)
    part = told.part or source.part or reading.only
    for network in [reading.parts[part]] if part in reading.parts else reading.parts.values():
        held = network.buffers.get(canonical(told.path))
        if held is not None and held.numel() == value.numel():
            return torch.equal(held.detach().cpu().flatten().double(), value.flatten().double())
    return False


def _shaped(name: str, value: Tensor, weight: Tensor, key: str) -> Tensor:
    """Gives a value the weight's shape; 1 x 1 convolutions and linear layers may stand for another.

    Raises:
        BadDelta: the shapes differ by more than that.
    """
    mine, theirs = list(weight.shape), list(value.shape)
    if [*theirs, *[1] * (len(mine) - len(theirs))] == [*mine, *[1] * (len(theirs) - len(mine))]:
        return value.reshape(weight.shape)
    raise BadDelta(
        f"'{name}' has shape {tuple(theirs)} and {key} of the base has {tuple(mine)}; the file is "
        "for another model"
    )


def _check_values(name: str, value: Tensor) -> None:
    if value.dtype not in _FLOATS:
        raise BadDelta(
            f"'{name}' holds {value.dtype}, so the weights are quantised; ask for float ones"
        )
    if not bool(torch.isfinite(value.float()).all()):
        raise BadDelta(f"'{name}' has values that are not finite; the file is damaged")


def _add(reading: Reading, key: str, patch: Patch, *, again: bool = True) -> None:
    zero = [not bool(tensor.any()) for tensor in vars(patch).values()]
    if any(zero):
        return
    held = reading.patches.get(key)
    if key in reading.decomposed:
        raise _beside_decomposed(key)
    if held is not None and isinstance(held, LowRankPatch) and not again:
        raise BadDelta(f"the file has two LoRA layers for {key}; save each in a file of its own")
    reading.patches[key] = patch if held is None else added(held, patch)


def _beside_decomposed(key: str) -> BadDelta:
    return BadDelta(
        f"the file changes {key} by DoRA and by something else, and the two do not add up; save "
        "each in a file of its own"
    )


def _refuse_rest(reading: Reading, names: list[str]) -> None:
    """Refuses files of which something was not read.

    Raises:
        BadDelta: a kind of adapter that is not known, keys that are not understood, layers that the
            model lacks, or nothing that the model has.
    """
    left: Mapping[str, Any] = dict.fromkeys([*reading.not_understood, *reading.lacking])
    if kind := foreign_kind(left):
        raise BadDelta(
            f"'{kind[1]}' is of {kind[0]}; that is not read, and the rest would be another "
            "change: ask for merged weights, or for a plain LoRA"
        )
    if reading.not_understood:
        raise BadDelta(
            f"keys of layers that the base has are not understood: "
            f"{_listed(reading.not_understood)}; without them the change would be another one, so "
            "ask for merged weights"
        )
    lost = len(reading.lacking) + len(reading.unused)
    if lost >= len(names):
        raise _nothing(reading, names)
    if reading.lacking:
        some = "read one network alone with --part, or give the base it was made from"
        raise BadDelta(f"the base lacks the layers of: {_listed(reading.lacking)}; {some}")


def _nothing(reading: Reading, names: list[str]) -> BadDelta:
    if word := next((name for name in names if _ADDED_WORDS.match(name)), None):
        return BadDelta(
            f"'{word}' is of a textual inversion, which adds words and changes no weight, so there "
            "is no delta to read; load it into the pipeline: pipe.load_textual_inversion"
        )
    part = reading.only or denoiser(reading.parts)
    network = reading.parts.get(part)
    layers = lora_layers(dict.fromkeys(names, torch.empty(0)))
    ours = sorted(network.layers if layers else network.weights)[:2] if network else []
    theirs = ", ".join(sorted(layers or names)[:2])
    what = "layer of the LoRA is one of the" if layers else "key of the file names a weight of the"
    return BadDelta(
        f"no {what} model's {part}: it has {theirs} ..., the model {', '.join(ours)} ...; "
        "the file is for another kind of model"
    )


def _listed(keys: list[str]) -> str:
    more = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
