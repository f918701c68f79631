"""Which model this is, by the content of its tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from efface.content import content_hash, module_state, tensor_hash
from efface.hosts.components import canonical, components, parameters

__all__ = ["TensorChange", "changes", "fingerprints", "model_id"]


@dataclass(frozen=True)
class TensorChange:
    """One tensor that a delta changes, by SHA-256 of its bytes."""

    key: str
    elements: int
    before: str
    after: str


def fingerprints(pipe: Any) -> dict[str, str]:
    """Hashes every parameter of every component: SHA-256 of its bytes, as stored in memory."""
    return {key: tensor_hash(parameter) for key, parameter in parameters(pipe)}


def model_id(pipe: Any, hashes: Mapping[str, str]) -> str:
    """Names a model by everything that pictures depend on.

    Tensors with their kinds, buffers, what lies beside the weights (adapters and their scales,
    FreeU, hooks of gated deltas, objects that compute attention), tokenizers, scheduler and
    configurations.
    """
    scheduler = pipe.scheduler
    facts = {
        "tensors": dict(hashes),
        "kinds": {key: f"{one.dtype} {tuple(one.shape)}" for key, one in parameters(pipe)},
        # A list: a layer and what peft wraps around it have one canonical path.
        "beside": sorted(
            (f"{name}/{canonical(path)}", state)
            for name, part in components(pipe).items()
            for path, state in module_state(part).items()
        ),
        "tokenizers": {name: content_hash(one) for name, one in _tokenizers(pipe)},
        "pipeline": type(pipe).__name__,
        "scheduler": [type(scheduler).__name__, _settings(scheduler.config)],
        "configs": {name: _settings(part) for name, part in sorted(_configs(pipe).items())},
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changes(
    pipe: Any, before: Mapping[str, str], after: Mapping[str, str]
) -> tuple[TensorChange, ...]:
    """Lists the tensors whose content differs."""
    sizes = {key: parameter.numel() for key, parameter in parameters(pipe)}
    return tuple(
        TensorChange(key, sizes[key], before[key], after[key])
        for key in sorted(before)
        if before[key] != after[key]
    )


def _tokenizers(pipe: Any) -> list[tuple[str, Any]]:
    held = getattr(pipe, "components", None) or {}
    return [(name, one) for name, one in sorted(held.items()) if hasattr(one, "model_max_length")]


def _configs(pipe: Any) -> dict[str, Any]:
    return {name: part.config for name, part in components(pipe).items() if hasattr(part, "config")}


def _settings(config: Any) -> dict[str, Any]:
    """Takes a configuration without private entries such as library versions and paths."""
    held = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    left_out = ("transformers_version", "dtype", "torch_dtype")
    return {
        key: value
        for key, value in sorted(held.items())
        if not key.startswith("_") and key not in left_out
    }
