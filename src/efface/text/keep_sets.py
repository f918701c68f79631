"""Keep sets as what a solve needs of them, and a folder that remembers them between erasures."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from efface.closed_form.text_space import TextMap, Weighting, token_factors
from efface.concepts import Concept, wordings
from efface.files import write_atomically
from efface.hosts.streams import TextStream
from efface.text.token_rules import TokenRule, kept_rows

__all__ = ["KeepCache", "KeepSet", "kept_set", "remembering"]

FORMAT = 1
"""Changes when the same prompts give other rows, or files look different."""
BATCH = 32
"""Prompts that are embedded and added up at a time."""


@dataclass(frozen=True)
class KeepSet:
    """The rows of all kept prompts, as their Gram matrix."""

    gram: Float[Tensor, "dim dim"]
    """``R^T R``, unweighted, in float64."""
    count: int
    """Rows."""

    def weighted(self, weight: float) -> Float[Tensor, "dim dim"]:
        """Gives ``weight * R^T R``."""
        return weight * self.gram

    def averaged(self, weight: float) -> Float[Tensor, "dim dim"]:
        """Gives the same, where all rows together count as one."""
        return self.weighted(weight / max(self.count, 1))

    def factors(self, erased: float, weighting: Weighting) -> tuple[float, float]:
        """Gives the factors for the erased side, by its total weight, and the kept one."""
        return token_factors(erased, self.count, weighting)

    def interference(self, edit: TextMap) -> float:
        """Measures how far the rows move, relative to their length; root mean square, 0 if none.

        That is ``|(P - I) R^T| / |R|`` by traces, which resolves shares down to about 1e-8.
        """
        length = float(self.gram.trace())
        if length <= 0:
            return 0.0
        inner = edit.right @ self.gram @ edit.right.T
        moved = float(((edit.left @ inner) * edit.left).sum())
        return math.sqrt(max(moved, 0.0) / length)

    @classmethod
    def together(cls, sets: Iterable[KeepSet]) -> KeepSet:
        """Joins the rows of several streams."""
        first, *others = sets
        total = first.gram
        for other in others:
            total = total + other.gram
        return cls(total, first.count + sum(other.count for other in others))


@dataclass
class KeepCache:
    """A folder of keep sets, each under a hash of all that decides it.

    That is every weight and the settings of the text encoders, the tokens of every prompt, the rule
    of tokens, and the library and machine settings that decide the last bits. A file that is
    damaged or of something else is made again, and said so; results are the same bit for bit.
    """

    folder: Path
    notes: list[str] = field(default_factory=list)
    """What was wrong with files, in lines for people."""
    _asked: set[str] = field(default_factory=set)
    _encoded: set[str] = field(default_factory=set)

    @property
    def found(self) -> int:
        """Prompts that needed no encoding, by no encoder."""
        return len(self._asked - self._encoded)

    @property
    def encoded(self) -> int:
        """Prompts that were encoded and stored."""
        return len(self._encoded)

    def told(self) -> dict[str, Any]:
        """Gives the counts and notes for the record of a run."""
        return {"found": self.found, "encoded": self.encoded, "notes": self.notes}

    def of(self, stream: TextStream, prompts: Sequence[str], tokens: TokenRule) -> KeepSet:
        """Gives the keep set of prompts, from its file or made and stored.

        Raises:
            BadRequest: the folder cannot be written to.
        """
        self._asked |= set(prompts)
        key = _key(stream, prompts, tokens)
        path = self.folder / f"keep-{key[:32]}.safetensors"
        if (known := self._read(path, key)) is not None:
            return known
        made = _made(stream, prompts, tokens, afresh=True)
        content = {"gram": made.gram, "count": torch.tensor([made.count])}
        sealed = {"key": key, "format": str(FORMAT), "sha256": _digest(made)}
        write_atomically(path, save(content, metadata=sealed))
        self._encoded |= set(prompts)
        return made

    def _read(self, path: Path, key: str) -> KeepSet | None:
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as opened:
                told = opened.metadata() or {}
                known = KeepSet(opened.get_tensor("gram"), int(opened.get_tensor("count")[0]))
        except (SafetensorError, OSError, ValueError, IndexError) as error:
            self.notes.append(f"{path} is damaged ({error}); the keep set was encoded again")
            return None
        if (told.get("key"), told.get("sha256")) != (key, _digest(known)):
            self.notes.append(f"{path} is not what it says; the keep set was encoded again")
            return None
        return known


_ACTIVE: ContextVar[KeepCache | None] = ContextVar("keep_cache", default=None)


@contextmanager
def remembering(folder: Path | str | None) -> Iterator[KeepCache | None]:
    """Lets keep sets made inside be read from a folder and stored there; None remembers nothing."""
    cache = None if folder is None else KeepCache(Path(folder))
    token = _ACTIVE.set(cache)
    try:
        yield cache
    finally:
        _ACTIVE.reset(token)


def kept_set(
    stream: TextStream,
    keep: Sequence[Concept],
    *,
    tokens: TokenRule,
    always: Sequence[str] = (),
    cache: KeepCache | None = None,
) -> KeepSet:
    """Adds up the rows of every kept prompt: those in ``always`` and all wordings of ``keep``.

    With concepts to keep, prompts are encoded by themselves and not beside those to erase, so that
    the last bits do not depend on what is erased.

    Args:
        stream: what turns prompts into rows.
        keep: concepts.
        tokens: which rows of a prompt.
        always: prompts.
        cache: where to look first; by default the folder of `remembering`, if any.
    """
    worded = (text for concept in keep for text in wordings(concept))
    prompts = list(dict.fromkeys([*always, *worded]))
    known = cache or _ACTIVE.get()
    if known is None or not keep:
        return _made(stream, prompts, tokens, afresh=bool(keep))
    return known.of(stream, prompts, tokens)


def _made(
    stream: TextStream, prompts: Sequence[str], tokens: TokenRule, *, afresh: bool
) -> KeepSet:
    total = torch.zeros(stream.width, stream.width, dtype=torch.float64)
    count = 0
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        for prompt, states in zip(some, stream.embedded(some, afresh=afresh), strict=True):
            rows = kept_rows(stream, prompt, tokens, states).to(torch.float64)
            total += rows.T @ rows
            count += len(rows)
    return KeepSet(total, count)


def _key(stream: TextStream, prompts: Sequence[str], tokens: TokenRule) -> str:
    machine = [torch.__version__, torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()]
    told: list[Any] = [FORMAT, tokens, stream.identity(prompts), list(prompts), machine]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _digest(held: KeepSet) -> str:
    content = held.gram.contiguous().numpy().tobytes()
    told = f"{held.count} {held.gram.dtype} {tuple(held.gram.shape)}".encode()
    return hashlib.sha256(told + content).hexdigest()
