"""From a place on the command line to pictures with things in them."""

from __future__ import annotations

from pathlib import Path

from efface.concepts import CONTENT
from efface.data.coco import coco
from efface.data.scenes import ScenePictures
from efface.errors import BadRequest, MissingInput
from efface.registry import VISION, bundled

__all__ = ["open_scenes"]


def open_scenes(place: Path | str | ScenePictures) -> ScenePictures:
    """Opens pictures with things in them.

    Args:
        place: a folder with one JSON file in COCO's layout, such a JSON file beside its pictures,
            ``FOLDER:JSON`` where they lie apart; ``NAME:train`` or ``NAME:test`` for a bundled
            model's; or scenes that are open already.

    Raises:
        MissingInput: there is nothing there, or the record knows its pictures by content alone.
        BadRequest: see `coco`, or the bundled model has pictures of one thing each.
    """
    if isinstance(place, ScenePictures):
        return place
    text = str(place)
    if text.startswith(CONTENT):
        raise MissingInput(
            f"this record knows its pictures by their content alone ({text}); give the folder that "
            "holds them with --forget-data or --retain-data"
        )
    name, _, part = text.rpartition(":")
    if name in VISION:
        found = bundled(name).pictures(name, part)
        if not isinstance(found, ScenePictures):
            raise BadRequest(f"the pictures of {name} show one thing each and are no scenes")
        return found
    if name and not Path(text).exists() and Path(name).is_dir():
        return coco(Path(name), Path(part))
    path = Path(text)
    return coco(path.parent, path) if path.suffix == ".json" else coco(path)
