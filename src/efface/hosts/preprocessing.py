"""How a vision model wants its pictures: its own library's processor, read from the folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from efface.content import content_hash
from efface.errors import BadModel, MissingInput
from efface.files import read_json_object

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["Preprocessing", "folder_config"]

_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Preprocessing:
    """Runs the image processor that a folder names, as transformers itself runs it.

    Sizes, crops, resampling, rescaling and normalisation are the processor's own, on whole levels
    of 0 to 255 as in a picture file. It works with Pillow and needs no torchvision.
    """

    processor: Any

    @classmethod
    def from_folder(cls, folder: Path) -> Preprocessing:
        """Reads ``preprocessor_config.json``, or what ``CLIPProcessor`` writes instead of it.

        Raises:
            MissingInput, BadModel: there is no such file, it is not JSON, or nothing that
                transformers knows.
        """
        from transformers import AutoImageProcessor

        _check(folder)
        try:
            processor = AutoImageProcessor.from_pretrained(
                folder, backend="pil", local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            why = " ".join(str(error).split())[:200]
            raise BadModel(
                f"{folder} does not say how its model wants pictures ({why}); save the model "
                "together with its image processor"
            ) from error
        return cls(processor)

    @property
    def identity(self) -> str:
        """Names the processor by its class and all its settings."""
        return content_hash(type(self.processor).__name__, self.processor.to_dict())

    def of_pictures(
        self, pictures: Sequence[Float[Tensor, "3 h w"]]
    ) -> Float[Tensor, "n 3 height width"]:
        """Prepares pictures of any sizes, one after the other where these differ.

        Raises:
            BadModel: see calls; or what comes out has several sizes.
        """
        if len({picture.shape for picture in pictures}) == 1:
            return self(torch.stack([*pictures]))
        prepared = [self(picture[None]) for picture in pictures]
        if len(sizes := sorted({tuple(each.shape[2:]) for each in prepared})) > 1:
            shown = " and ".join(f"{width} x {height}" for height, width in sizes[:2])
            raise BadModel(
                f"the model's image processor makes pictures of {shown} pixels, which are no one "
                "batch; set one height and width as size in preprocessor_config.json, or give "
                "pictures of one size"
            )
        return torch.cat(prepared)

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 height width"]:
        """Prepares pixels of 0 to 1; the result is on the pictures' device.

        A picture that is not finite comes out as NaN, so that nothing finite is said of it.

        Raises:
            BadModel: the processor fails, for instance because its size is not understood.
        """
        finite = images.detach().cpu().isfinite().flatten(1).all(dim=1)
        levels = (images.detach().cpu().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
        pictures = list(levels.permute(0, 2, 3, 1).numpy())
        try:
            given = self.processor(
                images=pictures, return_tensors="np", input_data_format="channels_last"
            )
        except (ValueError, TypeError, KeyError) as error:
            raise BadModel(
                f"the model's own image processor fails ({error}); save its processor again"
            ) from error
        pixels = torch.as_tensor(np.asarray(given["pixel_values"])).float()
        pixels[~finite] = torch.nan
        return pixels.to(images.device)


def _check(folder: Path) -> None:
    """Refuses a folder without a file that says how pictures are prepared."""
    for name in _FILES:
        if (folder / name).exists():
            config = folder_config(folder, name)
            if name == _FILES[0] or "image_processor" in config:
                return
    folder_config(folder, _FILES[0])


def folder_config(folder: Path, name: str) -> dict[str, Any]:
    """Reads one JSON file of a model folder; nothing is ever downloaded.

    Raises:
        MissingInput: no such folder.
        BadModel: the file is not there, or is not a JSON object.
    """
    if not folder.is_dir():
        raise MissingInput(
            f"{folder} is not a folder; give a folder with a saved transformers model"
        )
    try:
        return read_json_object(folder / name, failure=BadModel, advice="save the model again")
    except FileNotFoundError:
        raise BadModel(
            f"{folder} has no {name}; save the model together with its processor"
        ) from None
