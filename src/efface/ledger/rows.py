"""Token rows of requests and Gram matrices of keep sets, encoded once and kept as files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor, nn

from efface.closed_form.text_space import TokenPairs, joined
from efface.concepts import Concept, ErasureRequest
from efface.deltas.provenance import SKETCH_TOLERANCE, sketch, sketch_deviation
from efface.errors import BadRequest
from efface.files import write_atomically
from efface.hosts.components import KEY_VALUE
from efface.methods.uce import Uce
from efface.text.branches import TextBranch, text_branches
from efface.text.keep_sets import KeepSet, remembering
from efface.text.token_rules import TargetRule, TokenRule, WordingRule, worded_by

__all__ = [
    "Encoder",
    "Rows",
    "Rules",
    "copy_rows",
    "encoded",
    "kept_of",
    "read_rows",
    "stacked",
    "stored_rows",
    "write_rows",
]

Rows: TypeAlias = Mapping[str, TokenPairs]
"""What an entry moves, by the key of the branch that reads it."""

_SKETCHED = 8
"""Parameters of a network that tell it from others."""


@dataclass(frozen=True)
class Encoder:
    """Which text encoders the rows of a ledger come from, by strided values of some weights."""

    sketches: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, model: Any) -> Encoder:
        """Looks at evenly spread parameters of every network that prompts pass on their way.

        Those are a model's text encoders, and the denoiser's projection of text in PixArt, Sana and
        Wan.
        """
        parts = [getattr(model, f"text_encoder{suffix}", None) for suffix in ("", "_2", "_3")]
        denoiser = getattr(model, "transformer", None)
        parts.append(getattr(denoiser, "caption_projection", None))
        parts.append(getattr(getattr(denoiser, "condition_embedder", None), "text_embedder", None))
        return cls(tuple(sketch(each) for part in parts for each in _spread(part)))

    def same(self, other: Encoder) -> bool:
        """Says whether both are the same encoders, in whatever dtype."""
        if len(self.sketches) != len(other.sketches):
            return False
        pairs = zip(self.sketches, other.sketches, strict=True)
        return all(sketch_deviation(mine, theirs) <= SKETCH_TOLERANCE for mine, theirs in pairs)


def _spread(part: nn.Module | None) -> list[nn.Parameter]:
    if part is None:
        return []
    found = [parameter for _, parameter in sorted(part.named_parameters())]
    return found[:: max(1, len(found) // _SKETCHED)][:_SKETCHED]


@dataclass(frozen=True)
class Rules:
    """How prompts become rows; the same for all entries of a ledger."""

    tokens: TokenRule
    target: TargetRule
    wordings: WordingRule
    always_keep: tuple[str, ...]

    @classmethod
    def of(cls, method: Uce) -> Rules:
        """Takes them from the settings of a ledger's solves."""
        return cls(method.tokens, method.target, method.wordings, method.always_keep)


def encoded(model: Any, request: ErasureRequest, rules: Rules) -> Rows:
    """Encodes what a request moves, for each branch; equal rows are merged."""
    erasures = worded_by(request, rules.wordings).erasures
    return {
        branch.key: branch.erased(erasures, tokens=rules.tokens, target=rules.target)
        for branch in text_branches(model)
    }


def write_rows(path: Path, rows: Rows) -> str:
    """Stores rows in one file and gives its SHA-256.

    Encoders work in float32 or narrower, so rows are stored so wherever that loses nothing; rows
    that were projected or scaled after the encoder stay float64, and so do weights.
    """
    tensors = {}
    for key, pairs in rows.items():
        tensors[_name(key, "sources")] = _exact(pairs.sources)
        tensors[_name(key, "targets")] = _exact(pairs.targets)
        tensors[_name(key, "weights")] = pairs.weights
    return copy_rows(path, save(tensors))


def copy_rows(path: Path, content: bytes) -> str:
    """Stores a file of rows as it is and gives its SHA-256."""
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def _name(key: str, part: str) -> str:
    """Names a tensor; rows of the first families' only branch have no prefix."""
    return part if key == KEY_VALUE else f"{key}/{part}"


def _exact(rows: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    narrow = rows.to(torch.float32)
    return narrow if narrow.to(torch.float64).equal(rows.to(torch.float64)) else rows


def stored_rows(path: Path, expected: str) -> bytes:
    """Reads a file of rows as it is.

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
    return content


def read_rows(path: Path, expected: str) -> Rows:
    """Reads stored rows, by branch.

    Raises:
        BadRequest: see `stored_rows`.
    """
    wide = {
        name: tensor.to(torch.float64) for name, tensor in load(stored_rows(path, expected)).items()
    }
    keys = [name.rpartition("/")[0] or KEY_VALUE for name in wide if name.endswith("sources")]
    return {
        key: TokenPairs(*(wide[_name(key, part)] for part in ("sources", "targets", "weights")))
        for key in keys
    }


def stacked(key: str, entries: Iterable[tuple[Path, Rows, float]]) -> TokenPairs:
    """Stacks what entries move in one branch, in their order.

    Args:
        key: of the branch.
        entries: the file, the rows and the weight of each.

    Raises:
        BadRequest: an entry has no rows for the branch.
    """
    found = []
    for path, rows, weight in entries:
        if key not in rows:
            raise BadRequest(
                f"{path} has no rows for '{key}'; replay the ledger on this base: "
                "efface ledger replay"
            )
        found.append(rows[key].scaled(weight))
    return joined(found)


def kept_of(
    branch: TextBranch, keep: Sequence[Concept], rules: Rules, folder: Path | None
) -> KeepSet:
    """Gives the rows of a keep set added up, encoded once per set and kept in a folder, if any."""
    with remembering(folder):
        return branch.kept(keep, tokens=rules.tokens, always=rules.always_keep)
