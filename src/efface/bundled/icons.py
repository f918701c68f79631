"""Models that read icons: a classifier of nouns, a recogniser of individuals, a detector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from efface.bundled import weights_folder
from efface.errors import BadModel, BadRequest
from efface.registry import VISION

if TYPE_CHECKING:
    from efface.bundled.icon_scenes import IconScenes
    from efface.bundled.icon_sets import IconViews, Split
    from efface.data.pictures import LabelledPictures

__all__ = ["PRESET", "PRESETS", "folder", "pictures", "strangers"]

PRESET = "icons"
"""The presets of methods that were measured on these models."""
PRESETS = {name: name for name in ("icons-vit", "icons-detector", "icons-identities")}
"""Those of models that have their own, where a method has one."""


def folder(name: str) -> Path:
    """Where a model is: a folder that transformers' own classes wrote.

    Raises:
        BadModel: the package was installed without its weights.
    """
    found = weights_folder() / name
    if not (found / "config.json").exists():
        raise BadModel(
            f"the bundled model {name} has no weights in this installation; reinstall efface, or "
            "rebuild them with `make -C emoji vision`"
        )
    return found


def pictures(name: str, split: Split, *, views: int | None = None) -> IconViews | IconScenes:
    """Gives the pictures that a model was trained on, or held-out ones; a detector's are scenes.

    Args:
        name: of the model.
        split: "train" or "test".
        views: of each picture; by default those that the model was trained on.

    Raises:
        BadRequest: views of scenes are asked for.
    """
    from efface.bundled import icon_scenes, icon_sets

    if name == "icons-detector":
        if views is not None:
            raise BadRequest(
                f"{views} views of a scene were asked for, and {name} has one of each; leave views "
                "out"
            )
        return icon_scenes.scenes(split)
    sets = {"icons-vit": icon_sets.nouns, "icons-identities": icon_sets.individuals}
    return sets[name](split, views=views)


def strangers(name: str) -> LabelledPictures:
    """Gives pictures of classes that a model never knew: individuals outside its head.

    Args:
        name: of the model.
    """
    import torch

    from efface.bundled import icon_sets
    from efface.data.pictures import Part

    assert name in VISION
    every = icon_sets.individuals("test", strangers=True, views=1)
    return Part(every, torch.arange(0, len(every), 4))
