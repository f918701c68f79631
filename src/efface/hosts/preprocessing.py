"""How a vision model wants its pictures: the numbers of a folder's preprocessor_config.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.nn import functional

from efface.errors import BadModel, MissingInput
from efface.files import read_json

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["Preprocessing", "folder_config"]


@dataclass(frozen=True)
class Preprocessing:
    """Resizes the shorter side, crops the centre and normalises; needs no torchvision.

    Processors that stretch a picture to a square are treated alike: the same for square pictures.
    """

    resize: int
    """Pixels of the shorter side before the crop."""
    crop: int
    """Pixels of both sides of the result."""
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_folder(cls, folder: Path) -> Preprocessing:
        """Reads what the folder's own processor would do.

        Raises:
            MissingInput, BadModel: the file is missing or not JSON.
        """
        config = folder_config(folder, "preprocessor_config.json")
        resize = _side(config.get("size", 224))
        crop = _side(config.get("crop_size", resize)) if config.get("do_center_crop") else resize
        mean = tuple(config.get("image_mean", (0.5, 0.5, 0.5)))
        std = tuple(config.get("image_std", (0.5, 0.5, 0.5)))
        return cls(resize, crop, mean, std)

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 crop crop"]:
        """Prepares pixels of 0 to 1 (bicubic with antialiasing, as the processors do)."""
        height, width = images.shape[-2:]
        scale = self.resize / min(height, width)
        size = (round(height * scale), round(width * scale))
        resized = functional.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (size[0] - self.crop) // 2, (size[1] - self.crop) // 2
        cropped = resized[..., top : top + self.crop, left : left + self.crop]
        mean = cropped.new_tensor(self.mean).view(1, -1, 1, 1)
        std = cropped.new_tensor(self.std).view(1, -1, 1, 1)
        return (cropped - mean) / std


def folder_config(folder: Path, name: str) -> dict[str, Any]:
    """Reads one JSON file of a model folder; nothing is ever downloaded.

    Raises:
        MissingInput: no such folder.
        BadModel: the file is not there or is not JSON.
    """
    if not folder.is_dir():
        raise MissingInput(f"{folder} is no folder; give a folder with a saved transformers model")
    try:
        return dict(read_json(folder / name))
    except FileNotFoundError:
        raise BadModel(
            f"{folder} has no {name}; save the model together with its processor"
        ) from None
    except (ValueError, TypeError) as error:
        raise BadModel(f"{folder / name} is not JSON ({error}); save the model again") from None


def _side(size: Any) -> int:
    """Accepts 224, {"shortest_edge": 224} and {"height": 224, "width": 224}."""
    if isinstance(size, dict):
        size = size.get("shortest_edge", size.get("height"))
    if not isinstance(size, int):
        raise BadModel(f"the image size {size!r} in preprocessor_config.json is not understood")
    return size
