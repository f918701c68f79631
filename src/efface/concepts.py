"""What is to go and what must stay: concepts, erasures, requests, and the wording of prompts."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

from efface.errors import BadRequest, Refused
from efface.printable import is_text

__all__ = [
    "CONTENT",
    "TEMPLATES",
    "Concept",
    "ConceptKind",
    "Erasure",
    "ErasureRequest",
    "Pictured",
    "as_classes",
    "bare",
    "described",
    "names",
    "request",
    "request_from",
    "wordings",
]

ConceptKind: TypeAlias = Literal["object", "style", "person", "content", "class"]

TEMPLATES: dict[str, tuple[str, ...]] = {
    "object": ("{}", "a photo of a {}", "a picture of a {}", "an image of a {}"),
    "style": ("{}", "a painting in the style of {}", "art by {}", "a picture in {} style"),
    "person": ("{}", "a photo of {}", "a portrait of {}", "a picture of {}"),
    "content": ("{}", "a photo with {}", "a picture showing {}"),
    "class": ("{}",),
}
"""Wordings per kind of concept; ``{}`` is the name. The bare name always comes first."""


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One thing a model knows: an object, a style, a figure, a kind of content or a class.

    Raises:
        BadRequest: the name is blank or no text, or the kind is unknown.
        Refused: the texts combine minors and sexual content.
    """

    name: str
    """What it is called, as one would write it in a prompt."""
    kind: ConceptKind = "object"
    """Which wording templates fit."""
    prompts: tuple[str, ...] = ()
    """Prompts that mean this concept; empty: filled from the templates of ``kind``."""
    images: tuple[Path, ...] = ()
    """Pictures of it, or folders of them, for methods that learn from a few pictures."""
    labels: tuple[int, ...] = ()
    """Class numbers, for classifiers."""
    synonyms: tuple[str, ...] = ()
    """Other names of the same thing; they are erased or kept along with it."""

    def __post_init__(self) -> None:
        _check_texts(self)
        if not _letters("NFC", self.name).strip():
            raise BadRequest("a concept has an empty name; write what it is, such as 'pistol'")
        if self.kind not in get_args(ConceptKind):
            known = ", ".join(get_args(ConceptKind))
            raise BadRequest(f"'{self.kind}' is no kind of concept; choose one of: {known}")
        if odd := [text for text in _texts(self) if not is_text(text)]:
            raise BadRequest(
                f"{odd[0]!a} holds bytes that are not text; write the concept in UTF-8"
            )
        if odd := [text for text in _texts(self) if "\0" in text]:
            raise BadRequest(f"{odd[0]!a} holds a NUL, which no prompt has; leave it out")
        if any(not text.strip() for text in (*self.prompts, *self.synonyms)):
            raise BadRequest(f"concept '{self.name}' has an empty prompt or synonym; leave it out")
        _refuse_minors(_texts(self))


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """One concept to erase and where to steer what is left of it.

    Raises:
        BadRequest: concept and anchor are the same thing.
    """

    concept: Concept
    anchor: Concept | None = None
    """What prompts should give instead; None is the unconditional (empty) prompt."""

    def __post_init__(self) -> None:
        if self.anchor is None:
            return
        _refuse_minors(_texts(self.concept) + _texts(self.anchor))
        if bare(self.anchor.name) in {bare(name) for name in names(self.concept)}:
            raise BadRequest(
                f"'{self.concept.name}' would be replaced by itself; "
                "choose another anchor, or none for the empty prompt"
            )


@runtime_checkable
class Pictured(Protocol):
    """A set of labelled pictures, see `efface.data.pictures.LabelledPictures`."""

    @property
    def identity(self) -> str:
        """Sixteen hex digits of its content."""


@dataclass(frozen=True, kw_only=True)
class ErasureRequest:
    """Everything that one run erases and keeps.

    Raises:
        BadRequest: nothing to erase, a concept twice, or a concept both erased and kept.
    """

    erasures: tuple[Erasure, ...]
    keep: tuple[Concept, ...] = ()
    forget_data: Path | Pictured | None = None
    """Labelled pictures of what is erased, or where they are, for models that read pictures."""
    retain_data: Path | Pictured | None = None
    """Those of the rest, or of everything."""

    def __post_init__(self) -> None:
        if not self.erasures:
            raise BadRequest("the request erases nothing; name at least one concept")
        # Some text encoders, T5 among them, tell capitals apart.
        each = [{_trimmed(name) for name in names(erasure.concept)} for erasure in self.erasures]
        named = [name for known in each for name in known]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise BadRequest(f"'{twice[0]}' is erased twice; name it once")
        erased = {bare(name) for name in named}
        kept = {bare(name) for concept in self.keep for name in names(concept)}
        if both := sorted(kept.intersection(erased)):
            raise BadRequest(f"'{both[0]}' is both erased and kept; drop it from one of the two")


def names(concept: Concept) -> tuple[str, ...]:
    """Lists every name of a concept, its own first."""
    return (concept.name, *concept.synonyms)


def wordings(concept: Concept) -> tuple[str, ...]:
    """Lists prompts that mean a concept: those given, else its names in its kind's templates."""
    if concept.prompts:
        return concept.prompts
    templates = TEMPLATES[concept.kind]
    filled = (template.format(name) for name in names(concept) for template in templates)
    return tuple(dict.fromkeys(filled))


def request(
    concepts: str | Concept | Sequence[str | Concept],
    *,
    anchor: str | Concept | None = None,
    keep: str | Concept | Sequence[str | Concept] = (),
    kind: ConceptKind = "object",
) -> ErasureRequest:
    """Writes an erasure request from plain words.

    Args:
        concepts: one or several, as names or as `Concept`.
        anchor: where all of them are steered; None or an empty name is the empty prompt.
        keep: what must stay as it is; one name or several.
        kind: the kind of those given as names; kept names count as the same kind.

    Raises:
        BadRequest: see `Concept`, `Erasure` and `ErasureRequest`.
    """
    listed, kept = _listed(concepts), _listed(keep)
    target = None if anchor is None or anchor == "" else _concept(anchor, kind)
    erasures = tuple(Erasure(concept=_concept(one, kind), anchor=target) for one in listed)
    return ErasureRequest(erasures=erasures, keep=tuple(_concept(one, kind) for one in kept))


def as_classes(wanted: ErasureRequest) -> ErasureRequest:
    """Takes every concept as a class of a model that reads pictures, but for single pictures."""

    def of_class(concept: Concept) -> Concept:
        return concept if concept.kind == "content" else replace(concept, kind="class")

    erasures = tuple(replace(one, concept=of_class(one.concept)) for one in wanted.erasures)
    return replace(wanted, erasures=erasures, keep=tuple(map(of_class, wanted.keep)))


def _concept(given: str | Concept, kind: ConceptKind) -> Concept:
    return given if isinstance(given, Concept) else Concept(name=given, kind=kind)


def bare(name: str) -> str:
    """Gives a name without case, article and punctuation around it: "A pistol." is "pistol".

    Letters that Unicode can write in several ways, wide and joined ones among them, are one.
    """
    return _trimmed(_letters("NFKC", name)).casefold()


def _letters(form: Literal["NFC", "NFKC"], text: str) -> str:
    """Writes text in one of Unicode's normal forms, without marks that nobody sees."""
    plain = unicodedata.normalize(form, text)
    return "".join(each for each in plain if unicodedata.category(each) != "Cf")


def _trimmed(name: str) -> str:
    words = [word.strip(".,;:!?\"'()") for word in _letters("NFC", name).split()]
    article = bool(words) and words[0].lower() in ("a", "an", "the") and any(words[1:])
    rest = words[1:] if article else words
    return " ".join(word for word in rest if word) or name


def _listed(given: str | Concept | Iterable[str | Concept] | None) -> list[str | Concept]:
    if isinstance(given, str | Concept):
        return [given]
    # A mapping would lose its values, and a set has another order each time.
    if given is not None and (
        not isinstance(given, Iterable) or isinstance(given, Mapping | bytes | Set)
    ):
        raise BadRequest(f"a {type(given).__name__} names no concepts; give text or a list of it")
    return list(given or ())


def _check_texts(concept: Concept) -> None:
    """Refuses what is no text, and one text in place of several, which would be its letters."""
    for name in ("prompts", "synonyms"):
        if isinstance(text := getattr(concept, name), str):
            raise BadRequest(f"{name} is one text, and several are wanted; write ({text!r:.40},)")
    if odd := [text for text in _texts(concept) if not isinstance(text, str)]:
        raise BadRequest(f"{odd[0]!r:.40} is a {type(odd[0]).__name__}; name concepts by text")


def _texts(concept: Concept) -> tuple[str, ...]:
    return (*names(concept), *concept.prompts)


_MINORS = re.compile(
    r"\b(child(ren|ish)?|kids?|minors?|teen(s|ager|agers|age|aged)?|pre-?teens?|infants?|bab(y|ies)|"
    r"toddlers?|under-?aged?|school ?(girl|boy|kid)s?|girls?|boys?|juveniles?|"
    r"adolescents?|loli(ta|con)?s?|shota(con)?s?)\b",
    re.IGNORECASE,
)
_SEXUAL = re.compile(
    r"\b(sex\w*|nud\w+|naked\w*|erotic\w*|porn\w*|nsfw|topless|undress\w*|lewd\w*|hentai|fetish\w*|"
    r"explicit content|intimate imagery)\b",
    re.IGNORECASE,
)


def _refuse_minors(texts: tuple[str, ...]) -> None:
    """Refuses texts that, taken together, name minors and sexual content."""
    together = _letters("NFKC", " ; ".join(texts))
    if _MINORS.search(together) and _SEXUAL.search(together):
        raise Refused(
            "the request combines minors and sexual content, which efface does not process; "
            "name each kind of content on its own"
        )


def described(request: ErasureRequest) -> dict[str, Any]:
    """Writes a request as plain values that JSON can hold."""
    plain = replace(request, forget_data=None, retain_data=None)
    text = json.dumps(asdict(plain), default=str)
    written: dict[str, Any] = json.loads(text)
    return written | {name: _written_place(getattr(request, name)) for name in _DATA}


_DATA = ("forget_data", "retain_data")
CONTENT = "sha256:"
"""Before a hash that stands for pictures where no place of a machine is written down."""


def _written_place(place: Path | Pictured | None) -> str | None:
    if place is None or isinstance(place, Path):
        return None if place is None else str(place)
    return f"{CONTENT}{place.identity}"


def request_from(written: Mapping[str, Any]) -> ErasureRequest:
    """Reads what `described` wrote.

    Raises:
        BadRequest: a field is missing or unknown.
    """
    try:
        erasures = tuple(_erasure_from(each) for each in written["erasures"])
        keep = tuple(_concept_from(each) for each in written.get("keep", ()))
        folders = {name: written.get(name) for name in _DATA}
        paths = {name: None if given is None else Path(given) for name, given in folders.items()}
        return ErasureRequest(erasures=erasures, keep=keep, **paths)
    except (AttributeError, KeyError, TypeError) as error:
        raise BadRequest(f"the written request is damaged: {error}") from error


def _erasure_from(written: Mapping[str, Any]) -> Erasure:
    anchor = written.get("anchor")
    target = None if anchor is None else _concept_from(anchor)
    return Erasure(concept=_concept_from(written["concept"]), anchor=target)


def _concept_from(written: Mapping[str, Any]) -> Concept:
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in written.items()
    }
    fields["images"] = tuple(Path(path) for path in fields.get("images", ()))
    return Concept(**fields)
