"""What a model folder holds and weighs, from configs and file headers alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from efface.errors import BadModel
from efface.hosts.components import TEXT_KEYS, reaches
from efface.hosts.families import HOSTS, check_pipeline, layout
from efface.hosts.shards import StoredTensor, folder_json, stored_tensors
from efface.hosts.streaming import DENOISERS
from efface.hosts.widths import check_widths

__all__ = ["EncoderSurvey", "FolderSurvey", "licence_notes", "survey"]

LONGEST = 512
"""Tokens of a prompt that count where neither the family nor the encoder's config names a number;
language models could read many more."""


@dataclass(frozen=True)
class EncoderSurvey:
    """One text encoder."""

    name: str
    kind: str
    width: int
    """Values per token."""
    pooled_width: int
    """Values per prompt of its pooled output."""
    length: int
    """Tokens per prompt, padding included."""
    weights: int
    """Values in its matrices without token embeddings: each token meets each of them once."""
    largest: int
    """Values of its largest matrix, token embeddings aside."""
    bytes: int
    """Size in the files."""


@dataclass(frozen=True)
class FolderSurvey:
    """A pipeline's folder."""

    folder: Path
    pipeline: str
    family: str
    denoiser: str
    touched: Mapping[str, StoredTensor]
    """The weights that closed forms edit, by canonical path."""
    denoiser_weights: int
    """Values in all of the denoiser."""
    encoders: tuple[EncoderSurvey, ...]
    licence: tuple[str, ...]

    @property
    def width(self) -> int:
        """Values per token that most of the touched weights read: the side of the largest solve."""
        read: Counter[int] = Counter()
        for tensor in self.touched.values():
            read[tensor.shape[1]] += tensor.numel
        return read.most_common(1)[0][0]

    @property
    def bytes(self) -> int:
        """Size of all files in the folder."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


def survey(folder: Path | str) -> FolderSurvey:
    """Reads what there is to edit; no weight is read.

    Raises:
        BadModel: a config or a header is missing or damaged, nothing in the model reads text, or
            what does reads another width than the encoders give.
    """
    folder = Path(folder)
    index = folder_json(folder / "model_index.json")
    denoiser = next((name for name in DENOISERS if name in index), None)
    if denoiser is None:
        raise BadModel(f"{folder / 'model_index.json'} names no unet or transformer to edit")
    stored = stored_tensors(folder / denoiser)
    touched = {
        path: tensor
        for path, tensor in stored.items()
        if any(reaches(key, f"{denoiser}/{path}") for key in TEXT_KEYS)
    }
    if not touched:
        raise BadModel(f"nothing in {folder / denoiser} reads text in a way that efface knows")
    named = ((name, entry) for name, entry in index.items() if name.startswith("text_encoder"))
    parts = {name: entry[1] for name, entry in named if isinstance(entry, list)}
    config = SimpleNamespace(**folder_json(folder / denoiser / "config.json"))
    stand_in = SimpleNamespace(**parts, **{denoiser: SimpleNamespace(config=config)})
    family = layout(stand_in)
    check_pipeline(stand_in, str(index.get("_class_name")), _there(index))
    read = next((host.tokens_read for host in HOSTS if host.key == family), {})
    encoders = tuple(_encoders(folder, index, read))
    if not encoders:
        raise BadModel(f"{folder / 'model_index.json'} names no text encoder; copy the pipeline")
    check_widths(family, {path: tensor.shape for path, tensor in stored.items()}, encoders)
    return FolderSurvey(
        folder=folder,
        pipeline=str(index.get("_class_name", "")),
        family=family,
        denoiser=denoiser,
        touched=touched,
        denoiser_weights=sum(tensor.numel for tensor in stored.values()),
        encoders=encoders,
        licence=tuple(licence_notes(folder)),
    )


def _there(index: Mapping[str, Any]) -> list[str]:
    """Names the parts that an index says are there."""
    return [name for name, entry in index.items() if isinstance(entry, list) and entry[1]]


def _encoders(
    folder: Path, index: Mapping[str, Any], read: Mapping[str, int]
) -> Iterator[EncoderSurvey]:
    for name, entry in sorted(index.items()):
        if name.startswith("text_encoder") and isinstance(entry, list) and entry[1]:
            yield _encoder(folder / name, entry[1], read.get(name, LONGEST))


def _encoder(part: Path, kind: str, longest: int) -> EncoderSurvey:
    config = folder_json(part / "config.json")
    stored = stored_tensors(part)
    matrices = [
        tensor.numel
        for path, tensor in stored.items()
        if len(tensor.shape) == 2 and not re.search(r"embed|shared", path)
    ]
    text = config.get("text_config") or config
    width = int(text.get("hidden_size") or text.get("d_model") or 0)
    projected = kind.endswith("WithProjection")
    return EncoderSurvey(
        name=part.name,
        kind=kind,
        width=width,
        pooled_width=int(config.get("projection_dim") or 0) if projected else width,
        length=min(int(text.get("max_position_embeddings") or longest), longest),
        weights=sum(matrices),
        largest=max(matrices, default=0),
        bytes=sum(tensor.bytes for tensor in stored.values()),
    )


def licence_notes(folder: Path) -> Iterator[str]:
    """Quotes what a folder says about its licence: lines of its card, titles of licence files."""
    found = list(_card_lines(folder / "README.md"))
    for file in sorted(folder.iterdir()):
        if file.is_file() and re.match(r"(un)?licen[sc]e|copying", file.name, re.IGNORECASE):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            title = next((line.strip() for line in lines if line.strip()), "empty")
            found.append(f"{file.name}: {title}")
    yield from found or ["no licence file found"]


def _card_lines(card: Path) -> Iterator[str]:
    """Gives the lines about the licence from the head of a model card."""
    if not card.is_file():
        return
    first, *lines = card.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    if first.strip() != "---":
        return
    for line in lines:
        if line.strip() == "---":
            return
        if re.match(r"licen[sc]e\w*:\s*\S", line):
            yield " ".join(line.split())
