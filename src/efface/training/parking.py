"""Tensors that wait in temporary files instead of in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file, save
from torch import Tensor

from efface.files import write_atomically

__all__ = ["Parked", "parking_place"]


class Parked(Mapping[str, Tensor]):
    """Tensors in files, one each; looking one up reads it to where it was, bit for bit.

    Args:
        tensors: what to write down; they are not held.
        folder: for the files, of which whoever makes it gets rid.

    Raises:
        BadRequest: there is no room on the disk.
    """

    def __init__(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        self._places: dict[str, tuple[Path, str]] = {}
        for number, (key, tensor) in enumerate(tensors.items()):
            file = folder / f"{number}.safetensors"
            write_atomically(file, save({"tensor": tensor.detach().cpu().contiguous()}))
            self._places[key] = (file, str(tensor.device))

    def __getitem__(self, key: str) -> Tensor:
        """Reads a tensor."""
        file, device = self._places[key]
        return load_file(file, device=device)["tensor"]

    def __iter__(self) -> Iterator[str]:
        """Goes through the keys."""
        return iter(self._places)

    def __len__(self) -> int:
        """Counts the tensors."""
        return len(self._places)


@contextmanager
def parking_place() -> Iterator[Path]:
    """Makes a folder among the system's temporary files, and removes it however the body ends."""
    with TemporaryDirectory(prefix="efface-") as folder:
        yield Path(folder)
