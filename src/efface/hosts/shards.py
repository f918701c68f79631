"""Single tensors of a model folder: where they lie in its safetensors files, and their bytes."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from efface.errors import BadModel
from efface.files import parse_json, read_json_object
from efface.hosts.components import canonical

__all__ = [
    "StoredTensor",
    "WeightSet",
    "came_instead",
    "data_start",
    "folder_json",
    "header",
    "is_safetensors",
    "stored_tensors",
    "weight_set",
    "weight_sets",
]

_USUAL = re.compile(r"(diffusion_pytorch_model|model)\.")
"""Names that diffusers and transformers load."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file, known from the file's header alone."""

    file: Path
    name: str
    """As the file spells it."""
    shape: tuple[int, ...]
    kind: str
    """The file's word for the dtype, such as ``F16``."""
    start: int
    """First byte in the file."""
    stop: int

    @property
    def bytes(self) -> int:
        """The size in the file."""
        return self.stop - self.start

    @property
    def numel(self) -> int:
        """The number of values."""
        return torch.Size(self.shape).numel()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the values.

        Raises:
            BadModel: one that is not known here.
        """
        if self.kind not in _DTYPES:
            raise BadModel(
                f"{self.file}: '{self.name}' has dtype {self.kind}, which cannot be edited "
                f"({', '.join(_DTYPES)} can); use a copy of the model that is not quantised"
            )
        return _DTYPES[self.kind]

    def mapped(self) -> Tensor:
        """Gives the tensor as pages of the file that are read when they are used."""
        try:
            with safe_open(self.file, framework="pt") as opened:
                tensor: Tensor = opened.get_tensor(self.name)
        except (SafetensorError, OSError) as error:
            raise _damaged(self.file, error) from error
        return tensor

    def rows(self, numbers: Iterable[int] | None = None) -> Tensor:
        """Reads the tensor, or some of its rows, into memory of its own."""
        shape = self.shape
        with self.file.open("rb") as opened:
            if numbers is None:
                return self.tensor(_read(opened, self.start, self.bytes))
            each = self.bytes // shape[0]
            found = [_read(opened, self.start + each * number, each) for number in numbers]
        return torch.cat(found).view(self.dtype).reshape(len(found), *shape[1:])

    def tensor(self, content: Tensor) -> Tensor:
        """Interprets bytes of the tensor's size as its values; a view."""
        return content.view(self.dtype).reshape(self.shape)


def _read(opened: Any, start: int, size: int) -> Tensor:
    content = torch.empty(size, dtype=torch.uint8)
    opened.seek(start)
    if size and opened.readinto(content.numpy().data) != size:
        raise BadModel(f"{opened.name} became shorter while it was read; copy the model again")
    return content


@dataclass(frozen=True)
class WeightSet:
    """All weights of a network in one variant: a file, or shards with their index."""

    files: tuple[Path, ...]
    variant: str | None = None
    """Such as ``fp16``; None for the files without one, which libraries load unless told to."""
    index: Path | None = None

    def tensors(self) -> dict[str, StoredTensor]:
        """Lists every tensor by its canonical path, from headers alone.

        Raises:
            BadModel: a shard is missing or cut short, two have a tensor of the same name, or the
                index names a tensor that is not where it says.
        """
        found = {file.name: header(file) for file in self.files}
        every = [name for shard in found.values() for name in shard]
        if len(set(every)) < len(every):
            twice = next(name for name in every if every.count(name) > 1)
            raise BadModel(
                f"'{twice}' is in two shards of {self.files[0].parent}, of which libraries take "
                "either; they are of different copies, so copy the model again"
            )
        if self.index is not None:
            for name, file in _weight_map(self.index).items():
                if name not in found[file]:
                    raise BadModel(
                        f"{self.index} says that '{name}' is in {file}, which does not hold it; "
                        "index and shards are of different copies, copy the model again"
                    )
        named: dict[str, StoredTensor] = {}
        for shard in found.values():
            for name, tensor in shard.items():
                other = named.setdefault(canonical(name), tensor)
                if other is not tensor and not _alike(other, tensor):
                    raise BadModel(
                        f"'{other.name}' and '{name}' in {tensor.file} are one weight and differ; "
                        "copy the model again"
                    )
        return named


def _alike(one: StoredTensor, other: StoredTensor) -> bool:
    """Says whether two tensors are equal, as far as some thousand of their values tell."""
    if one.shape != other.shape:
        return False
    step = max(1, one.numel // 4096)
    first, second = (each.mapped().flatten()[::step].float() for each in (one, other))
    return torch.equal(first, second)


def stored_tensors(part: Path) -> dict[str, StoredTensor]:
    """Lists the tensors that libraries load from a network's folder, by canonical path.

    Raises:
        BadModel: see `weight_set` and `WeightSet.tensors`.
    """
    return weight_set(part).tensors()


def weight_set(part: Path) -> WeightSet:
    """Finds the weights of a network: those without a variant first.

    Raises:
        BadModel: there is no safetensors file.
    """
    if found := weight_sets(part):
        return found[0]
    held = ", ".join(sorted(file.name for file in part.iterdir())) or "nothing"
    pickled = any(part.glob("*.bin")) or any(part.glob("*.ckpt")) or any(part.glob("*.pt"))
    advice = (
        "weights in other formats can run code when they are read, so convert them to safetensors "
        "where you trust them: load the pipeline with diffusers and call save_pretrained"
        if pickled
        else "copy the model again, or convert its weights to safetensors"
    )
    raise BadModel(f"{part} holds no safetensors file (it holds {held}); {advice}")


def weight_sets(part: Path) -> list[WeightSet]:
    """Finds every set of safetensors weights in a network's folder.

    Those by the libraries' own names come first, as libraries load no others, and plain ones come
    before variants.
    """
    sets = []
    for index in sorted(part.glob("*.safetensors.index*.json")):
        names = sorted(set(_weight_map(index).values()))
        variant = re.search(r"index\.(\w+)\.json$", index.name)
        files = tuple(part / name for name in names)
        sets.append(WeightSet(files, variant.group(1) if variant else None, index))
    sharded = {file.name for each in sets for file in each.files}
    for file in sorted(part.glob("*.safetensors")):
        if file.name not in sharded and not re.search(r"-\d{5}-of-\d{5}", file.name):
            levels = file.name.split(".")
            sets.append(WeightSet((file,), levels[1] if len(levels) > 2 else None))
    return sorted(sets, key=_order)


def _order(weights: WeightSet) -> tuple[bool, str, bool]:
    first = weights.index or weights.files[0]
    return (not _USUAL.match(first.name), weights.variant or "", weights.index is None)


def _weight_map(index: Path) -> dict[str, str]:
    found = folder_json(index).get("weight_map", {})
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise BadModel(f"{index} has no weight map of names to files; copy the model again")
    outside = next(
        (file for file in found.values() if Path(file).name != file or file in ("", "..")), None
    )
    if outside is not None:
        raise BadModel(
            f"{index} names the shard '{outside}', which is not a file beside it; an index names "
            "files of its own folder, so fetch the model from where it is published"
        )
    return found


def folder_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object of a model folder.

    Raises:
        BadModel: it is missing, or is not a JSON object.
    """
    try:
        return read_json_object(file, failure=BadModel, advice="copy the model again")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadModel(f"{file} is missing; the copy of the model is not complete") from error


_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)


def came_instead(file: Path) -> str | None:
    """Names what often comes in place of a file of weights, with what to do; None if it did not."""
    with file.open("rb") as opened:
        start = opened.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS and not the file; fetch it: git lfs pull"
    if _PAGE.match(start):
        return "a web page and no file of weights; download the file itself"
    if start.startswith(b"GGUF"):
        return "a GGUF file, which holds packed weights; take the model's safetensors"
    return None


def is_safetensors(file: Path) -> bool:
    """Says whether a file is safetensors, by its name or, under any other, by how it begins."""
    if file.suffix.lower() in (".safetensors", ".sft"):
        return True
    with file.open("rb") as opened:
        start = opened.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size


def header(file: Path) -> dict[str, StoredTensor]:
    """Reads the header of a safetensors file and checks the file's length against it.

    Raises:
        BadModel: missing, not safetensors, or cut short.
    """
    try:
        if file.exists() and not file.is_file():
            raise BadModel(f"{file} is not a regular file; copy the model again")
        if (other := came_instead(file)) is not None:
            raise BadModel(f"{file} is {other}")
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            size = file.stat().st_size
            told = opened.read(length) if length < size else None
        content = None if told is None else parse_json(told, f"the header of {file}")
        if not isinstance(content, dict):
            raise BadModel(f"{file} is cut short within its header; copy the model again")
        found = {
            name: _stored(file, name, facts, 8 + length)
            for name, facts in content.items()
            if name != "__metadata__"
        }
    except FileNotFoundError as error:
        raise BadModel(f"{file} is missing; the copy of the model is not complete") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise _damaged(file, error) from error
    expected = max((tensor.stop for tensor in found.values()), default=8 + length)
    if size != expected:
        raise BadModel(
            f"{file} has {size} bytes and its header says {expected}; it is cut short or damaged, "
            "copy the model again"
        )
    return found


def _stored(file: Path, name: str, facts: dict[str, Any], offset: int) -> StoredTensor:
    start, stop = (int(each) for each in facts["data_offsets"])
    if not 0 <= start <= stop or not all(isinstance(each, int) for each in facts["shape"]):
        raise ValueError(f"'{name}' has the shape {facts['shape']} and lies at {start} to {stop}")
    return StoredTensor(
        file, name, tuple(facts["shape"]), facts["dtype"], offset + start, offset + stop
    )


def data_start(file: Path) -> int:
    """Gives the position behind a file's header."""
    with file.open("rb") as opened:
        return 8 + int.from_bytes(opened.read(8), "little")


def _damaged(file: Path, error: Exception) -> BadModel:
    return BadModel(f"{file} is damaged ({error}); copy the model again")
