"""Models that read icons: a classifier of nouns and a recogniser of individuals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from efface.bundled import weights_folder
from efface.errors import BadModel
from efface.registry import VISION

if TYPE_CHECKING:
    from efface.bundled.icon_sets import IconViews, Split
    from efface.data.pictures import LabelledPictures

__all__ = ["PRESET", "folder", "pictures", "strangers"]

PRESET = "icons"
"""The presets of methods that were measured on these models."""


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


def pictures(name: str, split: Split, *, views: int | None = None) -> IconViews:
    """Gives the pictures that a model was trained on, or held-out ones.

    Args:
        name: of the model.
        split: "train" or "test".
        views: of each picture; by default those that the model was trained on.
    """
    from efface.bundled import icon_sets

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
