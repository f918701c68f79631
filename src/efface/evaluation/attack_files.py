"""What an attack found as files: tensors of its best attempts, and a sheet of their pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from efface.deltas.patches import KINDS
from efface.errors import BadRequest
from efface.evaluation.attacking import Outcome
from efface.revival.attempts import Attempt

__all__ = ["SUFFIXES", "attempts_from", "packed", "sheet"]

SUFFIXES = (".safetensors", ".png")
_PLAIN = ("trial", "prompt", "seed", "spent", "negative", "guidance", "steps", "scheduler", "note")
_TENSORS = ("rows", "noise", "clean")
_COLUMNS = 8


def packed(outcome: Outcome) -> dict[str, bytes]:
    """Writes the best attempts so that each can be drawn again, and a sheet of the pictures."""
    files = {SUFFIXES[0]: _packed(outcome.attempts)}
    pictures = [picture for picture in outcome.pixels if picture is not None]
    if pictures:
        files[SUFFIXES[1]] = sheet(pictures)
    return files


def sheet(pictures: Sequence[Tensor]) -> bytes:
    """Puts pictures side by side, as a PNG file."""
    rows = [pictures[at : at + _COLUMNS] for at in range(0, len(pictures), _COLUMNS)]
    blank = torch.ones_like(pictures[0])
    lines = [
        torch.cat([*row, *[blank] * (min(_COLUMNS, len(pictures)) - len(row))], dim=2)
        for row in rows
    ]
    whole = torch.cat(lines, dim=1).permute(1, 2, 0)
    buffer = io.BytesIO()
    pixels = (whole.cpu().numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def attempts_from(content: bytes) -> tuple[Attempt | None, ...]:
    """Reads the attempts that `packed` wrote.

    Raises:
        BadRequest: it is not such a file.
    """
    try:
        tensors = load_tensors(content)
        size = int.from_bytes(content[:8], "little")
        facts = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["attempts"])
    except (KeyError, ValueError, UnicodeDecodeError, OSError) as error:
        raise BadRequest("this file holds no attempts of an attack") from error
    return tuple(
        None if one is None else _attempt(place, one, tensors) for place, one in enumerate(facts)
    )


def _packed(attempts: Sequence[Attempt | None]) -> bytes:
    facts: list[dict[str, Any] | None] = []
    tensors: dict[str, Tensor] = {}
    for place, one in enumerate(attempts):
        facts.append(None if one is None else _facts(one))
        if one is not None:
            tensors |= {f"{place}::{name}": value for name, value in _tensors(one).items()}
    # Copies, since trials may hold the same tensors, as those of one training for all.
    held = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    return bytes(save_tensors(held, metadata={"attempts": json.dumps(facts)}))


def _facts(attempt: Attempt) -> dict[str, Any]:
    names = {type_: name for name, type_ in KINDS.items()}
    return {
        **{name: getattr(attempt, name) for name in _PLAIN},
        "without": sorted(attempt.without),
        "added": {key: names[type(patch)] for key, patch in attempt.added.items()},
        "embeddings": sorted(attempt.embeddings),
    }


def _tensors(attempt: Attempt) -> dict[str, Tensor]:
    found = {name: value for name in _TENSORS if (value := getattr(attempt, name)) is not None}
    found |= {f"embeddings::{name}": rows for name, rows in attempt.embeddings.items()}
    for key, patch in attempt.added.items():
        for field in fields(patch):
            found[f"added::{key}::{field.name}"] = getattr(patch, field.name)
    return found


def _attempt(place: int, facts: dict[str, Any], tensors: dict[str, Tensor]) -> Attempt:
    def of(name: str) -> Tensor | None:
        return tensors.get(f"{place}::{name}")

    added = {}
    for key, kind in facts.pop("added").items():
        made = KINDS[kind]
        added[key] = made(
            **{each.name: tensors[f"{place}::added::{key}::{each.name}"] for each in fields(made)}
        )
    embeddings = {name: tensors[f"{place}::embeddings::{name}"] for name in facts.pop("embeddings")}
    without = frozenset(facts.pop("without"))
    rest: dict[str, Any] = {name: of(name) for name in _TENSORS}
    return Attempt(**facts, **rest, embeddings=embeddings, added=added, without=without)
