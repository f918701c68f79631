"""Pictures that a recipe names: their content is written down, and compared when it is repeated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from efface.contracts import Eraser
from efface.errors import BadRequest
from efface.picture_files import content_of, pictures_of, read_all
from efface.runs.recipe import Recipe

__all__ = ["check_readers", "pictured"]

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def pictured(recipe: AnyRecipe, hashes: Iterable[str] = ()) -> AnyRecipe:
    """Writes down the content of the pictures that a request names, or compares it.

    Args:
        recipe: with hashes, if it was written down before.
        hashes: what the pictures must be, in the order of the request; none: whatever they are.

    Raises:
        MissingInput: there is nothing at a place.
        BadRequest: a file is not a picture, the pictures are others than those that were written
            down, or there are more hashes than places.
    """
    places, given = pictures_of(recipe.request), tuple(hashes)
    if len(given) > len(places):
        raise BadRequest(
            f"{len(given)} hashes of pictures are given and {len(places)} places of them; give "
            "--images-hash once for each --images, or leave it out"
        )
    if not places:
        return recipe
    found = {str(place): content_of(place) for place in places}
    expected = dict(recipe.pictures) or dict(zip(found, given, strict=False))
    for place, content in expected.items():
        if found.get(place) != content:
            raise BadRequest(
                f"the pictures at {place} are others than those that were learnt from (their hash "
                f"is {found.get(place)}, not {content}); put those back, or erase anew without "
                "--images-hash"
            )
    read_all(places)
    return replace(recipe, pictures=found)


def check_readers(recipe: Recipe, methods: Iterable[Eraser[Any]]) -> None:
    """Refuses pictures where no method learns from any.

    Raises:
        BadRequest: naming the methods.
    """
    if pictures_of(recipe.request) and not any(each.reads_pictures for each in methods):
        raise BadRequest(
            f"{recipe.method} learns from no pictures; leave --images out, or take few_shot"
        )
