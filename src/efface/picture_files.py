"""Pictures that users give: which files they are, what they hold, and a hash of their content."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from efface.concepts import CONTENT, Concept, ErasureRequest
from efface.errors import BadRequest, EffaceError, MissingInput

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["by_content", "content_of", "listed", "open_rgb", "pictures_of", "read_all"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def listed(places: Iterable[Path]) -> tuple[Path, ...]:
    """Lists the picture files at some places, sorted by their content, so that no name matters.

    Args:
        places: files, or folders with nothing but pictures in them; hidden files do not count.

    Raises:
        MissingInput: there is nothing at a place, or no picture in a folder.
        BadRequest: a folder holds something else, or a file has no ending of a picture.
    """
    return tuple(sorted((file for place in places for file in _files(Path(place))), key=_digest))


def content_of(place: Path) -> str:
    """Gives sixteen hex digits of a hash of the pictures at a place, whatever their names.

    Raises:
        MissingInput, BadRequest: see `listed`.
    """
    digests = "".join(_digest(file) for file in listed([place]))
    return hashlib.sha256(digests.encode()).hexdigest()[:16]


def pictures_of(request: ErasureRequest) -> tuple[Path, ...]:
    """Lists the places of all pictures of what is erased, each once."""
    return tuple(dict.fromkeys(place for each in request.erasures for place in each.concept.images))


def by_content(request: ErasureRequest) -> ErasureRequest:
    """Names pictures by their content in place of where they are, for what leaves the machine."""
    erasures = tuple(
        replace(each, concept=_named_by_content(each.concept)) for each in request.erasures
    )
    return replace(request, erasures=erasures) if pictures_of(request) else request


def read_all(places: Iterable[Path]) -> list[Image]:
    """Reads the pictures at some places as RGB, in the order of `listed`.

    Raises:
        MissingInput, BadRequest: see `listed`; or a file cannot be read.
    """
    return [open_rgb(file, BadRequest) for file in listed(places)]


def open_rgb(file: Path, failure: type[EffaceError]) -> Image:
    """Reads a picture as RGB, with its texts in ``info``.

    Raises:
        failure: it is missing, cut short, no picture, or far too large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                image.load()
                texts = dict(getattr(image, "text", {}))
                found = image.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise failure(
            f"the picture {file} is larger than any model draws ({error}); remove it"
        ) from None
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise failure(f"the picture {file} cannot be read: {error}") from error
    found.info = texts
    return found


def _named_by_content(concept: Concept) -> Concept:
    names = (
        place if str(place).startswith(CONTENT) else Path(CONTENT + content_of(place))
        for place in concept.images
    )
    return replace(concept, images=tuple(names))


def _files(place: Path) -> list[Path]:
    if str(place).startswith(CONTENT):
        raise MissingInput(
            f"this record knows its pictures by their content alone ({place}); give the folder "
            "that holds them with --images"
        )
    if not place.exists():
        raise MissingInput(f"there are no pictures at {place}; give a folder of pictures or a file")
    if not place.is_dir():
        return [_checked(place)]
    found = [_checked(each) for each in sorted(place.iterdir()) if not each.name.startswith(".")]
    if not found:
        raise MissingInput(
            f"the folder {place} is empty; put 3 to 10 pictures of the concept there"
        )
    return found


def _checked(file: Path) -> Path:
    if file.is_dir():
        raise BadRequest(f"{file} is a folder among pictures; give a folder with pictures alone")
    if file.suffix.lower() not in SUFFIXES:
        raise BadRequest(
            f"{file} is not a picture; pictures end in {', '.join(SUFFIXES)}, and a folder of them "
            "holds nothing else"
        )
    return file


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise BadRequest(f"the picture {file} cannot be read: {error}") from error
