"""A change to a model as an artefact: patches by parameter, provenance, identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface.deltas import storage
from efface.deltas.application import AppliedDelta, apply, merge_into
from efface.deltas.empty_prompt import EmptyPrompt
from efface.deltas.gates import Gate
from efface.deltas.patches import KINDS, UNGATED, Patch, finite, scaled
from efface.deltas.provenance import ParameterKey, Provenance, base_sketch
from efface.deltas.row_maps import RowMaps, row_map_tensors
from efface.errors import BadDelta
from efface.hosts.components import TEXT_KEYS, reaches
from efface.plain_values import place

__all__ = ["Delta", "Provenance", "base_sketch"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Delta:
    """What an erasure changed: it can be applied, reverted, scaled, composed, saved and checked."""

    patches: Mapping[ParameterKey, Patch]
    provenance: Provenance
    gate: Gate | None = None
    """Opens low-rank patches by the prompt; without it they are always open."""
    ungated: Mapping[ParameterKey, Patch] = field(default_factory=dict)
    """Beside patches with a gate, those that hold for every prompt; none without a gate."""
    empty_prompt: EmptyPrompt = "edited"
    """Whether text encoders that it changes read the empty prompt so, too, or as before."""
    row_maps: RowMaps = field(default_factory=dict)
    """Maps of the rows that layers read, by key of `TEXT_KEYS`; they change no weight."""

    @cached_property
    def id(self) -> str:
        """Sixteen hex digits of a hash over all tensors, the request and the settings."""
        digest = hashlib.sha256()
        facts = {
            "method": self.provenance.method,
            "revision": self.provenance.revision,
            "settings": self.provenance.settings,
            "request": self.provenance.request,
            "parents": sorted(self.provenance.parents),
        }
        if self.empty_prompt != "edited":
            facts["empty_prompt"] = self.empty_prompt
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(
                tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()[:16]

    @property
    def keys(self) -> tuple[ParameterKey, ...]:
        """Lists what is changed, with a gate or without, each once."""
        return tuple(dict.fromkeys([*self.patches, *self.ungated, *self.row_maps]))

    def tensors(self) -> dict[str, Tensor]:
        """Lists every tensor as ``<key>::<field>``, the names used in the file."""
        every = {"": self.patches, UNGATED: self.ungated}
        held = {
            f"{prefix}{key}::{name}": getattr(patch, name)
            for prefix, patches in every.items()
            for key, patch in patches.items()
            for name in type(patch).__dataclass_fields__
        }
        held |= row_map_tensors(self.row_maps)
        return held | (self.gate.tensors() if self.gate else {})

    def kinds(self) -> dict[str, str]:
        """Names the kind of patch behind each key, as the file calls them."""
        names = {kind: name for name, kind in KINDS.items()}
        every = [*self.patches.items(), *((UNGATED + k, p) for k, p in self.ungated.items())]
        return {key: names[type(patch)] for key, patch in every}

    def covering(self, key: ParameterKey) -> tuple[Patch, ...]:
        """Gives the patches that act on one parameter: its own and the map of what it reads.

        With a gate, these are what it would let through at most.
        """
        keys = (key, *(each for each in TEXT_KEYS if reaches(each, key)))
        both = (self.patches, self.ungated)
        return tuple(held[each] for held in both for each in keys if each in held)

    def difference(
        self, key: ParameterKey, weight: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Gives what is added to one parameter whose value without this delta is ``weight``.

        Raises:
            BadDelta: a patch does not have the parameter's shape.
        """
        total = torch.zeros_like(weight)
        for patch in self.covering(key):
            try:
                total = total + patch.on(weight)
            except (RuntimeError, IndexError, ValueError) as error:
                shapes = [tuple(tensor.shape) for tensor in vars(patch).values()]
                raise BadDelta(
                    f"{key} has shape {tuple(weight.shape)} and its patch has tensors of {shapes}; "
                    "the delta is for another model"
                ) from error
        return total

    def scaled(self, scale: float) -> Delta:
        """Multiplies every patch, and what row maps add, by a number; provenance stays as it is.

        Raises:
            BadRequest: the scale is not finite.
        """
        scale = finite(scale)
        both = (self.patches, self.ungated)
        one, other = ({key: scaled(patch, scale) for key, patch in held.items()} for held in both)
        maps = {key: tuple(m.scaled(scale) for m in held) for key, held in self.row_maps.items()}
        return replace(self, patches=one, ungated=other, row_maps=maps)

    def save(self, path: Path | str) -> None:
        """Writes one safetensors file with the provenance in its header, in one step.

        Raises:
            BadRequest: the place cannot be written to; an older file there survives.
        """
        storage.save(self, place("the path", path))

    @classmethod
    def load(cls, path: Path | str) -> Delta:
        """Reads a delta from its file, or from the folder that holds ``delta.safetensors``.

        Raises:
            BadRequest: no file can have that name.
            BadDelta: missing, cut short, altered, or written by a newer version.
        """
        return storage.load(place("the path", path), cls)

    def apply(self, model: Any, *, scale: float = 1.0) -> AppliedDelta:
        """Changes the model until the returned object is reverted or its ``with`` block ends.

        Patches with a gate change no weight: they become low-rank layers beside them, which open
        for each prompt by its own. What is ungated changes the weights. Row maps change none: hooks
        apply them to what layers read, after those of deltas before it. Where the empty prompt is
        to stay ``original``, text encoders read it with the weights that they had before.

        Args:
            model: a pipeline or a network; checked against the sketch of the base.
            scale: 1 is the whole change, 0 none; other values move along the line.

        Raises:
            BadDelta: another base, a missing parent, applied already, or on a text encoder that an
                applied delta keeps the empty prompt of; or weights would not be finite.
            BadRequest: the scale is not finite.
        """
        return apply(self, model, scale=scale)

    def merge_into(self, model: Any, *, scale: float = 1.0) -> None:
        """Changes the model for good, for export; a gate is dropped, so it is always open.

        Raises:
            BadDelta: as for `apply`, or a delta is applied that would later be reverted, or there
                is what weights cannot hold: row maps, or an empty prompt that stays ``original``.
        """
        merge_into(self, model, scale=scale)
