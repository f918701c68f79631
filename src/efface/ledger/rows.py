"""Token rows of requests and Gram matrices of keep sets, encoded once and kept as files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from efface.concepts import Concept, ErasureRequest
from efface.core.deltas import SKETCH_TOLERANCE, sketch, sketch_deviation
from efface.core.files import write_atomically
from efface.core.keep_sets import KeepCache, KeepSet, kept_set
from efface.core.text import Embedder
from efface.core.text_space import TokenPairs
from efface.core.token_rules import TargetRule, TokenRule, erased_pairs
from efface.errors import BadRequest

__all__ = ["Encoder", "Rules", "encoded", "kept_of", "read_rows", "write_rows"]

_SKETCHED = 8
"""Parameters of a text encoder that tell it from others."""


@dataclass(frozen=True)
class Encoder:
    """Which text encoder the rows of a ledger come from, by strided values of some weights."""

    sketches: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, model: Any) -> Encoder:
        """Looks at evenly spread parameters of ``model.text_encoder``."""
        found = [parameter for _, parameter in sorted(model.text_encoder.named_parameters())]
        chosen = found[:: max(1, len(found) // _SKETCHED)][:_SKETCHED]
        return cls(tuple(sketch(parameter) for parameter in chosen))

    def same(self, other: Encoder) -> bool:
        """Says whether both are one encoder, in whatever dtype."""
        if len(self.sketches) != len(other.sketches):
            return False
        pairs = zip(self.sketches, other.sketches, strict=True)
        return all(sketch_deviation(mine, theirs) <= SKETCH_TOLERANCE for mine, theirs in pairs)


@dataclass(frozen=True)
class Rules:
    """How prompts become rows; the same for all entries of a ledger."""

    tokens: TokenRule
    target: TargetRule
    always_keep: tuple[str, ...]


def encoded(model: Any, request: ErasureRequest, rules: Rules) -> TokenPairs:
    """Encodes what a request moves; equal rows are merged."""
    embedder = Embedder(model)
    return erased_pairs(embedder, request.erasures, tokens=rules.tokens, target=rules.target)


def write_rows(path: Path, pairs: TokenPairs) -> str:
    """Stores rows in one file and gives its SHA-256.

    Encoders work in float32 or narrower, so rows lose nothing in float32; weights stay float64.
    """
    tensors = {
        "sources": pairs.sources.to(torch.float32),
        "targets": pairs.targets.to(torch.float32),
        "weights": pairs.weights,
    }
    content = save(tensors)
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def read_rows(path: Path, expected: str) -> TokenPairs:
    """Reads stored rows.

    Raises:
        BadRequest: the file is missing, damaged, or not the one that the ledger names.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadRequest(
            f"{path} is missing ({error.strerror}); restore it, or replay the ledger"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise BadRequest(
            f"{path} is not the file that the ledger names (sha256 {found[:12]}, expected "
            f"{expected[:12]}); restore it, or replay the ledger"
        )
    tensors = load(content)
    wide = {name: tensor.to(torch.float64) for name, tensor in tensors.items()}
    return TokenPairs(wide["sources"], wide["targets"], wide["weights"])


def kept_of(model: Any, keep: Sequence[Concept], rules: Rules, folder: Path) -> KeepSet:
    """Gives the rows of a keep set added up, encoded once per set and kept in a folder."""
    return kept_set(
        Embedder(model),
        keep,
        tokens=rules.tokens,
        always=rules.always_keep,
        cache=KeepCache(folder),
    )
