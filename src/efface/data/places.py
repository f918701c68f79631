"""From a place on the command line to labelled pictures, whatever their layout."""

from __future__ import annotations

from pathlib import Path

from efface.concepts import CONTENT
from efface.data.folders import image_folder
from efface.data.idx import idx_files
from efface.data.pictures import LabelledPictures
from efface.errors import BadRequest, MissingInput
from efface.registry import VISION, bundled

__all__ = ["open_pictures"]


def open_pictures(place: Path | str | LabelledPictures) -> LabelledPictures:
    """Opens labelled pictures.

    Args:
        place: a folder with a folder for each class, or of IDX files (``FOLDER:test`` for their
            test split), or that the datasets library saved; ``icons-vit:train`` or
            ``icons-vit:test`` for a bundled model's; or pictures that are open already.

    Raises:
        MissingInput: there is nothing there, or the record knows its pictures by content alone.
        BadRequest: see `image_folder`, `idx_files` and `arrow_folder`; or the bundled model has
            scenes.
    """
    if isinstance(place, LabelledPictures):
        return place
    text = str(place)
    if text.startswith(CONTENT):
        raise MissingInput(
            f"this record knows its pictures by their content alone ({text}); give the folder that "
            "holds them with --forget-data or --retain-data"
        )
    name, _, split = text.rpartition(":")
    if name in VISION:
        found = bundled(name).pictures(name, split)
        if not isinstance(found, LabelledPictures):
            raise BadRequest(
                f"the pictures of {name} are scenes with several things each, and here each "
                "picture has one label; give pictures of one thing each"
            )
        return found
    split_of = name and not Path(text).exists() and Path(name).is_dir()
    folder, part = (Path(name), split) if split_of else (Path(text), "train")
    if any(folder.glob("*-idx3-ubyte*")):
        return idx_files(folder, part)
    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        from efface.data.arrow import arrow_folder

        return arrow_folder(folder, part)
    return image_folder(folder)
