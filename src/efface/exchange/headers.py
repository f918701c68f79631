"""Headers of safetensors files: what kohya's, ModelSpec's and diffusers' readers look up."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safetensors.torch import save
from torch import Tensor

from efface.exchange.low_rank import Layers
from efface.hosts.components import component
from efface.hosts.families import host_of
from efface.hosts.vision import VisionModel
from efface.printable import printable

__all__ = ["DIFFUSERS", "Description", "model_fields", "saved"]

DIFFUSERS = "diffusers"
"""ModelSpec's ``implementation`` of files that name layers as diffusers does."""
_LEGACY_START, _LEGACY_LENGTH = 0x100000, 0x10000
"""Which bytes of a file kohya's older hash is of."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a header tells people about an edit; empty fields are left out."""

    title: str
    name: str = ""
    """What tools that list files show in place of the file's name (``ss_output_name``)."""
    date: str = ""
    """When it was made, ISO 8601."""
    author: str = ""
    licence: str = ""
    description: str = ""
    tags: Sequence[str] = ()
    merged_from: Sequence[str] = ()
    """The edits that it was put together from."""
    thumbnail: str = ""
    """A picture as a data URI."""

    def fields(self) -> dict[str, str]:
        """Gives the header's fields, under ModelSpec's names."""
        told = {
            "ss_output_name": self.name,
            "modelspec.title": self.title,
            "modelspec.date": self.date,
            "modelspec.author": self.author,
            "modelspec.license": self.licence,
            "modelspec.description": self.description,
            "modelspec.tags": ",".join(self.tags),
            "modelspec.merged_from": ",".join(self.merged_from),
        }
        fields = {name: printable(" ".join(text.split())) for name, text in told.items() if text}
        return fields | ({"modelspec.thumbnail": self.thumbnail} if self.thumbnail else {})


def model_fields(layers: Layers, *, implementation: str = DIFFUSERS) -> dict[str, str]:
    """Says which model a file of layers is for, by the names that tools sort files by.

    A1111 takes files that do not say ``sdxl_`` or ``ss_v2`` for Stable Diffusion 1.x and hides
    them from other models.

    Args:
        layers: what changes, and of which model.
        implementation: whose names of layers the file has.
    """
    fields = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": implementation,
        "modelspec.usage_hint": "Give strength 1: the scale of the export is in the file.",
        "ss_network_module": "networks.lora",
    }
    if layers.rank:  # a file may hold dense changes alone
        ranks = {"dim": str(layers.rank), "alpha": str(float(layers.rank))}
        fields |= {f"ss_network_{name}": text for name, text in ranks.items()}
    if isinstance(layers.model, VisionModel):
        network = type(component(layers.model, layers.component)).__name__
        return fields | {"modelspec.architecture": f"{network}/lora"}
    host = host_of(layers.model)
    version, architecture = host.file_names
    return fields | {
        "ss_base_model_version": version,
        "ss_v2": str(host.key == "sd2"),
        "modelspec.architecture": f"{architecture}/lora",
    }


def saved(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """Gives a safetensors file whose header holds the hashes of what comes after the header.

    ``sshs_model_hash`` and ``modelspec.hash_sha256`` are the SHA-256 of all bytes after the header,
    so that they do not change with the header. ``sshs_legacy_hash`` is of 64 kB of the file with
    kohya's fields alone in its header, which is how kohya's scripts and A1111 compute it.
    """
    held = dict(tensors)
    kohyas = {name: text for name, text in header.items() if name.startswith("ss_")}
    plain = save(held, metadata=kohyas or None)
    digest = hashlib.sha256(_after_header(plain)).hexdigest()
    legacy = hashlib.sha256(plain[_LEGACY_START : _LEGACY_START + _LEGACY_LENGTH]).hexdigest()
    hashes = {
        "sshs_model_hash": digest,
        "sshs_legacy_hash": legacy[:8],
        "modelspec.hash_sha256": f"0x{digest}",
    }
    del plain  # a whole model may be in it
    written: bytes = save(held, metadata={"format": "pt", **header, **hashes})
    return written


def _after_header(file: bytes) -> memoryview:
    length = int.from_bytes(file[:8], "little")
    return memoryview(file)[8 + length :]
