"""Pictures with things in them, one box and one class each: what detectors forget."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.content import content_hash
from efface.errors import BadRequest, MissingInput

__all__ = [
    "Annotated",
    "Scene",
    "ScenePart",
    "ScenePictures",
    "require_things",
    "scene_identity",
    "scenes_numbered_as",
    "scenes_with",
    "scenes_without",
    "shared_scenes",
    "some_scenes",
]


class Annotated(NamedTuple):
    """What is in a picture."""

    boxes: Float[Tensor, "m 4"]
    """Centre and size (x, y, width, height) as shares of the picture."""
    classes: Int[Tensor, " m"]


class Scene(NamedTuple):
    """A picture with what is in it."""

    pixels: Float[Tensor, "3 h w"]
    """0 to 1."""
    boxes: Float[Tensor, "m 4"]
    classes: Int[Tensor, " m"]


@runtime_checkable
class ScenePictures(Protocol):
    """A set of pictures with things in them; pixels are read when they are asked for."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes by number; a class may have no thing."""

    @property
    def things(self) -> Sequence[Annotated]:
        """What is in each picture, without reading it."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Sixteen hex digits of the content of each picture, whatever its file is called."""

    @property
    def identity(self) -> str:
        """Sixteen hex digits of all pictures with their things and classes' names, in any order."""

    def __len__(self) -> int:
        """Counts the pictures."""

    def scenes(self, which: Sequence[int]) -> list[Scene]:
        """Reads some pictures; sizes may differ."""


@dataclass(frozen=True, eq=False)
class ScenePart:
    """Some pictures of a set, each with all that is in it, with the set's classes or others."""

    whole: ScenePictures
    which: tuple[int, ...]
    """Which of them, in order."""
    renumbered: tuple[int, ...] = ()
    """The new number of each of the set's classes; empty: as in the set."""
    renamed: tuple[str, ...] = ()
    """Names by the new numbers."""

    @property
    def names(self) -> tuple[str, ...]:
        """See `ScenePictures`."""
        return self.renamed or self.whole.names

    @cached_property
    def things(self) -> tuple[Annotated, ...]:
        """See `ScenePictures`."""
        whole = self.whole.things
        own = (whole[place] for place in self.which)
        return tuple(Annotated(each.boxes, self._numbered(each.classes)) for each in own)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """See `ScenePictures`."""
        keys = self.whole.keys
        return tuple(keys[place] for place in self.which)

    @cached_property
    def identity(self) -> str:
        """See `ScenePictures`."""
        return scene_identity(self)

    def __len__(self) -> int:
        """Counts the pictures."""
        return len(self.which)

    def scenes(self, which: Sequence[int]) -> list[Scene]:
        """See `ScenePictures`."""
        read = self.whole.scenes([self.which[place] for place in which])
        return [each._replace(classes=self._numbered(each.classes)) for each in read]

    def _numbered(self, classes: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
        return torch.tensor(self.renumbered)[classes] if self.renumbered else classes


def scene_identity(pictures: ScenePictures) -> str:
    """Gives sixteen hex digits of a set's pictures with what is in them, in any order."""
    told = []
    for key, each in zip(pictures.keys, pictures.things, strict=True):
        named = [pictures.names[number] for number in each.classes.tolist()]
        rounded = [[round(one, 5) for one in box] for box in each.boxes.tolist()]
        told.append((key, sorted(zip(named, rounded, strict=True))))
    return content_hash("scenes", sorted(told))


def some_scenes(pictures: ScenePictures, which: Sequence[int]) -> ScenePart:
    """Takes some pictures, in the order given."""
    return ScenePart(pictures, tuple(int(place) for place in which))


def scenes_with(pictures: ScenePictures, numbers: Collection[int]) -> ScenePart:
    """Takes the pictures with a thing of some classes in them; other things may be there too."""
    return some_scenes(pictures, [place for place, has in _having(pictures, numbers) if has])


def scenes_without(pictures: ScenePictures, numbers: Collection[int]) -> ScenePart:
    """Takes the pictures with nothing of some classes in them."""
    return some_scenes(pictures, [place for place, has in _having(pictures, numbers) if not has])


def require_things(pictures: ScenePictures, numbers: Collection[int]) -> None:
    """Refuses classes of which no picture shows a thing.

    Raises:
        MissingInput: there are such classes.
    """
    seen = {number for each in pictures.things for number in each.classes.tolist()}
    if missing := [pictures.names[number] for number in sorted(set(numbers) - seen)]:
        present = _listed([pictures.names[number] for number in sorted(seen)], 8) or "nothing"
        raise MissingInput(
            f"no scene shows {_listed(missing, 5)}; the scenes show {present}; give scenes with "
            "what is to be forgotten"
        )


def scenes_numbered_as(pictures: ScenePictures, names: Sequence[str]) -> ScenePart:
    """Gives a set the class numbers of a model's head.

    Args:
        pictures: with names that the head knows; case, "_" and "-" do not matter.
        names: of the head's classes, by number.

    Raises:
        BadRequest: a picture shows a thing of a class that the head lacks.
    """
    known = {_plain(name): number for number, name in enumerate(names)}
    used = {pictures.names[number] for each in pictures.things for number in each.classes.tolist()}
    if unknown := sorted(name for name in used if _plain(name) not in known):
        raise BadRequest(
            f"the scenes show {_listed(unknown, 5)}, which the detector's head of {len(names)} "
            f"classes does not have; its classes are {_listed(names, 8)}"
        )
    renumbered = tuple(known.get(_plain(name), -1) for name in pictures.names)
    return ScenePart(pictures, tuple(range(len(pictures))), renumbered, tuple(names))


def shared_scenes(first: ScenePictures, second: ScenePictures) -> int:
    """Counts pictures that are in both sets, by their content."""
    return len(set(first.keys) & set(second.keys))


def _having(pictures: ScenePictures, numbers: Collection[int]) -> list[tuple[int, bool]]:
    wanted = set(numbers)
    return [
        (place, not wanted.isdisjoint(each.classes.tolist()))
        for place, each in enumerate(pictures.things)
    ]


def _listed(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (" and more" if len(names) > most else "")


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())
