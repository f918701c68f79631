"""From a request to the pictures of what a model shall forget and of what it shall retain."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from efface.concepts import CONTENT, Concept, ErasureRequest, names, request_from
from efface.data.pictures import (
    LabelledPictures,
    numbered_as,
    of_classes,
    plain_name,
    shared_pictures,
    without_classes,
)
from efface.data.places import open_pictures
from efface.deltas.application import applied_to
from efface.errors import BadRequest, MissingInput
from efface.hosts.vision import VisionModel
from efface.registry import VISION, bundled

__all__ = [
    "Examples",
    "ForgettingData",
    "classes_of",
    "earlier_classes",
    "erased_classes",
    "forgetting_data",
    "known_pictures",
    "retained_classes",
    "unerased",
]


@runtime_checkable
class Examples(Protocol):
    """What methods learn to forget from: labelled pictures, or scenes."""

    @property
    def identity(self) -> str:
        """Sixteen hex digits of all of them."""

    def __len__(self) -> int:
        """Counts them."""


SomeExamples = TypeVar("SomeExamples", bound=Examples)


@dataclass(frozen=True)
class ForgettingData(Generic[SomeExamples]):
    """Pictures numbered as the model's head numbers its classes."""

    forget: SomeExamples
    retain: SomeExamples
    classes: tuple[int, ...]
    """Which classes are erased; empty where single pictures are."""
    earlier: tuple[int, ...]
    """Classes that earlier requests erased, whose deltas are in force on the model."""

    def named(self, request: ErasureRequest) -> ErasureRequest:
        """Names the pictures in a request by their content."""
        forget, retain = (Path(f"{CONTENT}{each.identity}") for each in (self.forget, self.retain))
        return replace(request, forget_data=forget, retain_data=retain)


def forgetting_data(
    model: VisionModel, request: ErasureRequest, place: str
) -> ForgettingData[LabelledPictures]:
    """Opens the pictures of a request.

    Retained are all pictures of other classes than those that this request and earlier ones erase.
    A request of kind "content" erases single pictures rather than classes, those of its
    ``forget_data``, and retains all others.

    Args:
        model: whose head numbers the classes; earlier requests' deltas are in force on it.
        request: what goes; without places, a bundled model's own pictures are taken.
        place: the model's name or folder.

    Raises:
        MissingInput: there are no pictures, or none of a class that is erased.
        BadRequest: the head lacks a class, both sets share pictures, or nothing is retained.
    """
    by_picture = all(one.concept.kind == "content" for one in request.erasures)
    classes = () if by_picture else erased_classes(model.labels, request)
    earlier = unerased(model, classes)
    every = _opened(model, request.retain_data, place)
    if every is None:
        raise MissingInput(
            f"{place or 'this model'} learns to forget from pictures: give --retain-data FOLDER "
            "with a folder of pictures for each class (docs/recognisers.md)"
        )
    given = _opened(model, request.forget_data, "")
    if by_picture:
        if given is None:
            raise MissingInput("single pictures are erased by giving them: --forget-data FOLDER")
        forget, retain = given, _without(every, given)
    else:
        forget = of_classes(given or every, classes)
        retain = without_classes(every, (*classes, *earlier))
        if given is not None and (both := shared_pictures(forget, retain)):
            raise BadRequest(
                f"{both} pictures are both among those to forget and, under other classes, among "
                "those to retain; take them out of one of the two"
            )
    data = ForgettingData(forget, retain, classes, earlier)
    _check(model, data)
    return data


def _opened(model: VisionModel, place: Any, name: str) -> LabelledPictures | None:
    """Opens a place, or a bundled model's own pictures, with the head's class numbers."""
    if place is None and name in VISION:
        place = bundled(name).pictures(name, "train")
    return None if place is None else numbered_as(open_pictures(place), model.labels)


def retained_classes(model: VisionModel, request: ErasureRequest, place: str) -> tuple[int, ...]:
    """Lists the classes of which training saw a picture that it retained; none if none is known.

    Args:
        model: whose head numbers the classes.
        request: names the retained pictures, or a bundled model has them.
        place: the model's name or folder.
    """
    every = known_pictures(model, request, place)
    return () if every is None else tuple(int(number) for number in every.labels.unique())


def known_pictures(
    model: VisionModel, request: ErasureRequest, place: str
) -> LabelledPictures | None:
    """Opens the pictures that a request learns from, of all classes; None if they are not known.

    Args:
        model: whose head numbers the classes.
        request: names the pictures, or a bundled model has them.
        place: the model's name or folder.
    """
    if str(request.retain_data).startswith(CONTENT):
        return None
    return _opened(model, request.retain_data, place)


def _without(every: LabelledPictures, given: LabelledPictures) -> LabelledPictures:
    import torch

    from efface.data.pictures import Part

    taken = set(given.keys)
    left = [place for place, key in enumerate(every.keys) if key not in taken]
    return Part(every, torch.tensor(left, dtype=torch.long))


def _check(model: VisionModel, data: ForgettingData[LabelledPictures]) -> None:
    held = {int(number) for number in data.forget.labels.unique()} if len(data.forget) else set()
    if not len(data.forget) or (lacking := sorted(set(data.classes) - held)):
        name = model.labels[lacking[0]] if len(data.forget) else "what is to be forgotten"
        raise MissingInput(f"there is no picture of {name}; give some with --forget-data FOLDER")
    if not len(data.retain):
        raise BadRequest("nothing is left to retain: every picture is of a class that is erased")


def erased_classes(labels: Sequence[str], request: ErasureRequest) -> tuple[int, ...]:
    """Lists the classes that a request erases, by number.

    Raises:
        BadRequest: see `classes_of`; or a class comes twice.
    """
    found = [number for one in request.erasures for number in classes_of(labels, one.concept)]
    if twice := sorted({number for number in found if found.count(number) > 1}):
        raise BadRequest(f"class '{labels[twice[0]]}' is named twice; name it once")
    return tuple(found)


def classes_of(labels: Sequence[str], concept: Concept) -> tuple[int, ...]:
    """Finds the classes that a concept means: its numbers, or those of its names.

    Args:
        labels: names of the head's classes, each perhaps several with commas between.
        concept: with ``labels``, or a name or synonym that is one of the names.

    Raises:
        BadRequest: the head has no such class; the text suggests the nearest.
    """
    if concept.labels:
        if beyond := [number for number in concept.labels if not 0 <= number < len(labels)]:
            raise BadRequest(
                f"'{concept.name}' names class {beyond[0]}, and the model's head has classes 0 to "
                f"{len(labels) - 1}"
            )
        return concept.labels
    known: dict[str, int] = {}
    for number, text in enumerate(labels):
        for name in (text, *text.split(",")):
            known.setdefault(plain_name(name), number)
    found = dict.fromkeys(known[plain_name(n)] for n in names(concept) if plain_name(n) in known)
    if not found:
        near = difflib.get_close_matches(plain_name(concept.name), known, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {_some(labels)}"
        raise BadRequest(f"the model's head has no class '{concept.name}'; {hint}")
    return tuple(found)


def unerased(model: VisionModel, classes: Sequence[int]) -> tuple[int, ...]:
    """Lists the classes that deltas in force erase, and refuses to erase one of them again.

    Raises:
        BadRequest: one of the classes is among them.
    """
    earlier = earlier_classes(model)
    if again := sorted(set(classes) & set(earlier)):
        raise BadRequest(
            f"'{model.labels[again[0]]}' was erased by an earlier request, which is in force; "
            "leave it out"
        )
    return earlier


def earlier_classes(model: VisionModel) -> tuple[int, ...]:
    """Lists the classes that deltas in force on a model erase."""
    return tuple(dict.fromkeys(_earlier(model)))


def _earlier(model: VisionModel) -> Iterator[int]:
    for record in applied_to(model):
        told: Mapping[str, Any] = record.delta.provenance.request
        for one in request_from(told).erasures:
            if one.concept.kind != "content":
                yield from classes_of(model.labels, one.concept)


def _some(labels: Sequence[str]) -> str:
    more = " and more" if len(labels) > 8 else ""
    return ", ".join(labels[:8]) + more
