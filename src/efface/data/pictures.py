"""Labelled pictures: what a set of them offers, and smaller or renumbered views of one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.content import content_hash
from efface.errors import BadRequest
from efface.randomness import split

__all__ = [
    "Joined",
    "LabelledPictures",
    "Part",
    "few_per_class",
    "numbered_as",
    "of_classes",
    "plain_name",
    "share",
    "shared_pictures",
    "without_classes",
]


@runtime_checkable
class LabelledPictures(Protocol):
    """A set of pictures with one class each; pixels are read when they are asked for."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes by number; a class may have no picture."""

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """The class of each picture, by number."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Sixteen hex digits of the content of each picture, whatever its file is called."""

    @property
    def identity(self) -> str:
        """Sixteen hex digits of all pictures with their classes' names, in any order."""

    def __len__(self) -> int:
        """Counts the pictures."""

    def read(self, which: Sequence[int]) -> list[Float[Tensor, "3 h w"]]:
        """Reads some pictures; pixels are 0 to 1, sizes may differ."""


@dataclass(frozen=True, eq=False)
class Part:
    """Some pictures of a set, with the set's classes or others."""

    whole: LabelledPictures
    which: Int[Tensor, " n"]
    """Which of them, in order."""
    renumbered: tuple[int, ...] = ()
    """The new number of each of the set's classes; empty: as in the set."""
    renamed: tuple[str, ...] = ()
    """Names by the new numbers."""

    @property
    def names(self) -> tuple[str, ...]:
        """See `LabelledPictures`."""
        return self.renamed or self.whole.names

    @cached_property
    def labels(self) -> Int[Tensor, " n"]:
        """See `LabelledPictures`."""
        labels = self.whole.labels[self.which]
        return torch.tensor(self.renumbered)[labels] if self.renumbered else labels

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """See `LabelledPictures`."""
        keys = self.whole.keys
        return tuple(keys[place] for place in self.which.tolist())

    @property
    def identity(self) -> str:
        """See `LabelledPictures`."""
        return identity_of(self)

    def __len__(self) -> int:
        """Counts the pictures."""
        return len(self.which)

    def read(self, which: Sequence[int]) -> list[Float[Tensor, "3 h w"]]:
        """See `LabelledPictures`."""
        return self.whole.read(self.which[list(which)].tolist())


@dataclass(frozen=True, eq=False)
class Joined:
    """Several sets with the same classes, one after the other."""

    parts: tuple[LabelledPictures, ...]

    def __post_init__(self) -> None:
        if len({part.names for part in self.parts}) != 1:
            raise BadRequest("sets with different classes cannot be joined; renumber them first")

    @property
    def names(self) -> tuple[str, ...]:
        """See `LabelledPictures`."""
        return self.parts[0].names

    @cached_property
    def labels(self) -> Int[Tensor, " n"]:
        """See `LabelledPictures`."""
        return torch.cat([part.labels for part in self.parts])

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """See `LabelledPictures`."""
        return tuple(key for part in self.parts for key in part.keys)

    @property
    def identity(self) -> str:
        """See `LabelledPictures`."""
        return identity_of(self)

    def __len__(self) -> int:
        """Counts the pictures."""
        return sum(map(len, self.parts))

    def read(self, which: Sequence[int]) -> list[Float[Tensor, "3 h w"]]:
        """See `LabelledPictures`."""
        starts = [0]
        for part in self.parts:
            starts.append(starts[-1] + len(part))
        found: dict[int, Float[Tensor, "3 h w"]] = {}
        for part, start, end in zip(self.parts, starts, starts[1:], strict=False):
            own = [place for place in dict.fromkeys(which) if start <= place < end]
            found |= dict(zip(own, part.read([place - start for place in own]), strict=True))
        return [found[place] for place in which]


def identity_of(pictures: LabelledPictures) -> str:
    """Gives sixteen hex digits of a set's pictures with their classes' names, in any order."""
    named = [pictures.names[label] for label in pictures.labels.tolist()]
    return content_hash("labelled pictures", sorted(zip(pictures.keys, named, strict=True)))


def of_classes(pictures: LabelledPictures, numbers: Collection[int]) -> Part:
    """Takes the pictures of some classes."""
    wanted = torch.tensor(sorted(numbers), dtype=torch.long)
    return Part(pictures, torch.isin(pictures.labels, wanted).nonzero().flatten())


def without_classes(pictures: LabelledPictures, numbers: Collection[int]) -> Part:
    """Takes the pictures of all other classes."""
    unwanted = torch.tensor(sorted(numbers), dtype=torch.long)
    return Part(pictures, (~torch.isin(pictures.labels, unwanted)).nonzero().flatten())


def numbered_as(pictures: LabelledPictures, names: Sequence[str]) -> Part:
    """Gives a set the class numbers of a model's head.

    Args:
        pictures: with names that the head knows; case, "_" and "-" do not matter.
        names: of the head's classes, by number.

    Raises:
        BadRequest: the set has pictures of a class that the head lacks.
    """
    known = {plain_name(name): number for number, name in enumerate(names)}
    used = {pictures.names[label] for label in pictures.labels.unique().tolist()}
    if unknown := sorted(name for name in used if plain_name(name) not in known):
        shown = ", ".join(unknown[:5]) + (" and more" if len(unknown) > 5 else "")
        raise BadRequest(
            f"the pictures are of {shown}, which the model's head of {len(names)} classes does "
            f"not have; its classes are {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        )
    renumbered = tuple(known.get(plain_name(name), -1) for name in pictures.names)
    return Part(pictures, torch.arange(len(pictures)), renumbered, tuple(names))


def few_per_class(
    pictures: LabelledPictures, count: int, generator: torch.Generator
) -> LabelledPictures:
    """Draws so many pictures of every class; classes with fewer give all they have.

    Raises:
        BadRequest: ``count`` is below 1.
    """
    if count < 1:
        raise BadRequest(f"{count} pictures a class are none; give 1 or more")
    return Part(pictures, _drawn(pictures, dict.fromkeys(_classes(pictures), count), generator))


def share(
    pictures: LabelledPictures, ratio: float, generator: torch.Generator, *, stratified: bool = True
) -> LabelledPictures:
    """Draws a share of a set, at least one picture of each class.

    Args:
        pictures: the set.
        ratio: above 0, at most 1.
        generator: of the draw.
        stratified: the same share of each class; otherwise of all pictures alike.

    Raises:
        BadRequest: the ratio is not a share.
    """
    if not 0 < ratio <= 1:
        raise BadRequest(f"a share of {ratio} is none; give more than 0 and at most 1")
    if ratio == 1:
        return pictures
    if not stratified:
        order = torch.randperm(len(pictures), generator=generator)
        return Part(pictures, order[: max(1, round(ratio * len(pictures)))].sort().values)
    sizes = torch.bincount(pictures.labels, minlength=len(pictures.names)).tolist()
    counts = {number: max(1, round(ratio * sizes[number])) for number in _classes(pictures)}
    return Part(pictures, _drawn(pictures, counts, generator))


def shared_pictures(first: LabelledPictures, second: LabelledPictures) -> int:
    """Counts pictures that are in both sets, by their content."""
    return len(set(first.keys) & set(second.keys))


def _classes(pictures: LabelledPictures) -> list[int]:
    return [int(number) for number in pictures.labels.unique().tolist()]


def _drawn(
    pictures: LabelledPictures, counts: dict[int, int], generator: torch.Generator
) -> Int[Tensor, " n"]:
    """Draws from each class apart, so that one class's size changes no other's draw."""
    draws = split(generator, *(f"class {number}" for number in counts))
    taken = []
    for number, count in counts.items():
        own = (pictures.labels == number).nonzero().flatten()
        order = torch.randperm(len(own), generator=draws[f"class {number}"])
        taken.append(own[order[:count]])
    return torch.cat(taken).sort().values


def plain_name(name: str) -> str:
    """Writes a class's name without capitals, and with a blank for "_" and "-"."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())
