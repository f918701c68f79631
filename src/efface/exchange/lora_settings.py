"""The alphas of LoRA files that are no tensors: peft's config, and what headers say."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efface.errors import BadDelta
from efface.files import parse_json

__all__ = ["CONFIG", "LoraSettings", "header_settings", "peft_settings"]

CONFIG = "adapter_config.json"
_HEADER = "lora_adapter_metadata"
"""Where diffusers writes the configs of all networks, their fields after the network's name."""

_PEFT_DEFAULT = 8
"""peft's rank and alpha where a config names none."""
_READ = {
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
    "init_lora_weights",
}  # fmt: skip
_WITHOUT_EFFECT = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path",
    "revision", "inference_mode", "target_modules", "exclude_modules", "lora_dropout",
    "fan_in_fan_out", "layers_to_transform", "layers_pattern", "megatron_config",
    "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "runtime_config", "qalora_group_size", "ensure_weight_tying",
}  # fmt: skip
"""Fields of peft's config that say nothing on what the finished tensors do."""
_IN_TENSORS = {"bias", "modules_to_save", "trainable_token_indices", "lora_bias"}
"""Fields whose effect is in tensors of their own, which are read or refused as such."""
_KEEPING_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to start that leave the base's weights alone."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """What a file says on the scale of its layers."""

    origin: str
    rank: int | None = None
    alpha: float | None = None
    rank_pattern: Mapping[str, float] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False
    """Divides by the root of the rank (rsLoRA)."""
    decomposed: bool | None = None
    """Whether every layer has a magnitude (DoRA); None where nothing is said."""

    def scale(self, paths: Iterable[str], rank: int) -> float | None:
        """Gives the factor of one layer; None where nothing is said.

        Args:
            paths: spellings of the layer's path in its network.
            rank: of its tensors.

        Raises:
            BadDelta: the tensors have another rank than the settings say.
        """
        names = list(paths)
        said = _matching(self.rank_pattern, names, self.rank)
        if said is not None and said != rank:
            raise BadDelta(
                f"{self.origin} says that {names[0]} has rank {said:g} and its tensors have "
                f"{rank}; the files are of different adapters"
            )
        alpha = _matching(self.alpha_pattern, names, self.alpha)
        if alpha is None:
            return None
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def peft_settings(file: Path) -> LoraSettings:
    """Reads ``adapter_config.json``.

    Raises:
        BadDelta: damaged, or of something that is more than a LoRA.
    """
    try:
        return _settings(str(file), _object(str(file), file.read_bytes()))
    except OSError as error:
        raise BadDelta(f"{file} is not readable ({error}); copy it again") from error


def header_settings(file: Path, header: Mapping[str, str]) -> dict[str | None, LoraSettings]:
    """Reads alphas from a header, by network: diffusers' configs, or SPM's one rank and alpha.

    Raises:
        BadDelta: damaged, or of something that is more than a LoRA.
    """
    if _HEADER in header:
        origin = f"'{_HEADER}' in the header of {file}"
        configs: dict[str | None, dict[str, Any]] = {}
        for name, value in _object(origin, header[_HEADER]).items():
            part, dot, setting = name.rpartition(".")
            configs.setdefault(part if dot else None, {})[setting] = value
        return {part: _settings(origin, config) for part, config in configs.items()}
    if {"alpha", "rank", "prompts"} <= header.keys():
        origin = f"the header of {file}"
        alpha, rank = (_number(origin, name, header[name]) for name in ("alpha", "rank"))
        return {None: LoraSettings(origin=origin, alpha=alpha, rank=int(rank))}
    return {}


def _object(origin: str, text: str | bytes) -> dict[str, Any]:
    content = parse_json(text, origin, failure=BadDelta, advice="copy it again")
    if not isinstance(content, dict):
        raise BadDelta(f"{origin} does not hold a JSON object; copy it again")
    return content


def _settings(origin: str, config: Mapping[str, Any]) -> LoraSettings:
    kind = config.get("peft_type") or "LORA"
    if kind != "LORA":
        raise BadDelta(f"{origin} is of {kind}, and LoRA alone is read; ask for merged weights")
    known = _READ | _WITHOUT_EFFECT | _IN_TENSORS
    if unknown := sorted(name for name in config if config[name] and name not in known):
        raise BadDelta(
            f"{origin} has {', '.join(f'{name} = {config[name]!r}'[:80] for name in unknown)}, "
            "which is not understood; ask for merged weights"
        )
    start = config.get("init_lora_weights")
    if start not in _KEEPING_THE_BASE:
        raise BadDelta(
            f"{origin} says init_lora_weights = {start!r}, which changes the base's weights too; "
            "ask for the adapter converted to a plain LoRA"
        )
    return LoraSettings(
        origin=origin,
        rank=int(_number(origin, "r", config.get("r", _PEFT_DEFAULT))),
        alpha=_number(origin, "lora_alpha", config.get("lora_alpha", _PEFT_DEFAULT)),
        rank_pattern=_pattern(origin, "rank_pattern", config),
        alpha_pattern=_pattern(origin, "alpha_pattern", config),
        rank_stabilised=bool(config.get("use_rslora")),
        decomposed=bool(config["use_dora"]) if "use_dora" in config else None,
    )


def _number(origin: str, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise BadDelta(f"{origin} says {name} = {value!r}, which is not a number; copy it again")
    return number


def _pattern(origin: str, name: str, config: Mapping[str, Any]) -> dict[str, float]:
    told = config.get(name) or {}
    if not isinstance(told, dict):
        raise BadDelta(f"{origin} says {name} = {told!r:.80}, which is not a table; copy it again")
    for pattern in told:
        try:
            nested = re.search(r"\)\s*[*+{]", re.compile(pattern).pattern)
        except re.error as error:
            raise BadDelta(f"{origin}: {name} has '{pattern:.80}' ({error})") from error
        if nested:  # could take forever to match
            raise BadDelta(f"{origin}: {name} has '{pattern:.80}', which is too intricate to read")
    return {pattern: _number(origin, name, value) for pattern, value in told.items()}


def _matching(
    pattern: Mapping[str, float], paths: Iterable[str], usual: float | None
) -> float | None:
    """Finds the first entry that a path ends with, as peft does."""
    for path in paths:
        for key, value in pattern.items():
            if re.match(rf"(.*\.)?({key})$", path):
                return value
    return usual
