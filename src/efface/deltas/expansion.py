"""A map of the text side written out as one low-rank patch per layer, for tools that know LoRA."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from efface.deltas.application import references
from efface.deltas.delta import Delta
from efface.deltas.patches import Patch, TextMapPatch, added
from efface.deltas.row_maps import refuse_row_maps
from efface.hosts.components import find

__all__ = ["expanded"]


def expanded(delta: Delta, model: Any) -> Delta:
    """Replaces a delta's text maps by a low-rank patch of the same rank for every layer it reaches.

    The effect is the same up to rounding; the result has an id of its own and fits where parameters
    are addressed one by one. A gate is dropped, and what is ungated joins what it opened.

    Args:
        delta: with or without text maps; without one it comes back as it is.
        model: the base that the delta was made for.

    Raises:
        BadDelta: the model is another base, or lacks a parent of the delta; or
            the delta maps rows, which no weight holds.
    """
    refuse_row_maps(delta.id, delta.row_maps)
    every = dict(delta.patches)
    for key, patch in delta.ungated.items():
        every[key] = added(every[key], patch) if key in every else patch
    maps = {key: patch for key, patch in every.items() if isinstance(patch, TextMapPatch)}
    if not maps and delta.gate is None:
        return delta
    weights = references(delta, model) if maps else {}
    patches: dict[str, Patch] = {k: p for k, p in every.items() if k not in maps}
    for group, text_map in maps.items():
        for key in find(model, group):
            layer = text_map.for_layer(weights[key])
            patches[key] = added(patches[key], layer) if key in patches else layer
    settings = {**delta.provenance.settings, "expanded_from": delta.id}
    made = replace(delta.provenance, settings=settings)
    return Delta(patches=patches, provenance=made, empty_prompt=delta.empty_prompt)
