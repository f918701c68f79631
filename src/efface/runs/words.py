"""A request and settings as words of the command line, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from efface.concepts import Concept, ConceptKind, ErasureRequest, as_classes, request
from efface.errors import BadRequest, EffaceError
from efface.registry import BUNDLED, bundled, reads_pictures

__all__ = ["Words", "flag", "flags_of", "understood", "words_of"]


@dataclass(frozen=True, kw_only=True)
class Words:
    """A request as it is typed."""

    concepts: tuple[str, ...]
    kind: ConceptKind | None = None
    anchor: str | None = None
    keep: tuple[str, ...] = ()
    keep_kind: ConceptKind | None = None
    synonyms: tuple[str, ...] = ()
    """``CONCEPT=NAME`` each; of one concept, the name alone will do."""
    images: tuple[str, ...] = ()
    """``CONCEPT=PLACE`` each, of pictures; of one concept, the place alone will do."""
    forget_data: str | None = None
    """Where labelled pictures of what is erased are, for models that read pictures."""
    retain_data: str | None = None
    """Where labelled pictures of the rest are, or of everything."""

    def request(self) -> ErasureRequest:
        """Writes the request that they mean.

        Raises:
            BadRequest: nothing to erase, a synonym of none of the concepts, or see
                `efface.concepts`.
        """
        if not self.concepts:
            raise BadRequest("nothing to erase: give --concept NAME, once per concept")
        kind = self.kind or "object"
        also = [self._owned("synonyms", text) for text in self.synonyms]
        shown = [self._owned("images", text) for text in self.images]
        concepts = [
            Concept(
                name=name,
                kind=kind,
                synonyms=tuple(word for of, word in also if of == name),
                images=tuple(Path(place) for of, place in shown if of == name),
            )
            for name in self.concepts
        ]
        keep = [Concept(name=name, kind=self.keep_kind or kind) for name in self.keep]
        made = request(concepts, anchor=self.anchor, keep=keep, kind=kind)
        places = (
            None if each is None else Path(each) for each in (self.forget_data, self.retain_data)
        )
        forget, retain = places
        return replace(made, forget_data=forget, retain_data=retain)

    def _owned(self, flag: str, text: str) -> tuple[str, str]:
        """Tells which concept a synonym, or a place of pictures, is of."""
        of = [name for name in self.concepts if text.startswith(f"{name}=")]
        if of:
            concept = max(of, key=len)
            return concept, text.removeprefix(f"{concept}=")
        if len(self.concepts) > 1:
            raise BadRequest(
                f"--{flag} {text} does not say of which concept; write --{flag} "
                f"'{self.concepts[0]}={text}'"
            )
        return self.concepts[0], text

    def flags(self) -> list[str]:
        """Writes them as flags."""
        several = (
            ("concept", self.concepts),
            ("keep", self.keep),
            ("synonyms", self.synonyms),
            ("images", self.images),
        )
        single = (
            ("kind", self.kind),
            ("keep-kind", self.keep_kind),
            ("anchor", self.anchor),
            ("forget-data", self.forget_data),
            ("retain-data", self.retain_data),
        )
        words = [word for name, values in several for value in values for word in flag(name, value)]
        return words + [word for name, one in single if one is not None for word in flag(name, one)]


def understood(wanted: ErasureRequest, model: str) -> ErasureRequest:
    """Lets a bundled model fill in what it knows: synonyms, wordings and what to keep."""
    if reads_pictures(model):
        return as_classes(wanted)
    filled: ErasureRequest = bundled(model).understood(wanted) if model in BUNDLED else wanted
    return filled


def words_of(wanted: ErasureRequest, model: str) -> Words | None:
    """Finds the fewest words that are read as just this request, or None if none are.

    Concepts with prompts or classes of their own, and several anchors, have no words.
    """
    anchors = {each.anchor for each in wanted.erasures}
    if len(anchors) > 1:
        return None
    concepts = [each.concept for each in wanted.erasures]
    also = tuple(f"{one.name}={word}" for one in concepts for word in one.synonyms)
    (anchor,) = anchors
    several = len(concepts) > 1
    plain = Words(
        concepts=tuple(one.name for one in concepts),
        anchor=None if anchor is None else anchor.name,
        images=tuple(
            f"{one.name}={place}"
            if several or str(place).startswith(f"{one.name}=")
            else str(place)
            for one in concepts
            for place in one.images
        ),
        forget_data=None if wanted.forget_data is None else str(wanted.forget_data),
        retain_data=None if wanted.retain_data is None else str(wanted.retain_data),
    )
    kept = tuple(one.name for one in wanted.keep)
    kind, keep_kind = concepts[0].kind, wanted.keep[0].kind if wanted.keep else None
    tried = product((None, kind), ((), also), (((), None), (kept, None), (kept, keep_kind)))
    made = (
        replace(plain, kind=each, synonyms=names, keep=keep, keep_kind=of)
        for each, names, (keep, of) in tried
    )
    return next((words for words in made if _means(words, wanted, model)), None)


def _means(words: Words, wanted: ErasureRequest, model: str) -> bool:
    try:
        return understood(words.request(), model) == wanted
    except EffaceError:
        return False


def flag(name: str, value: Any) -> list[str]:
    """Writes one flag with its value, so that a value with a dash in front is none."""
    text = str(value)
    return [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]


def flags_of(settings: Mapping[str, Any], *, stage: str = "") -> list[str] | None:
    """Writes settings as the flags that are read as them; None where no flag can say one.

    Args:
        settings: values by name; booleans, numbers, texts, None and lists of them.
        stage: before each flag, as in ``--esd.steps 3``, where methods run in turn.
    """
    prefix = f"{stage}." if stage else ""
    words: list[str] = []
    for name, value in settings.items():
        spelled = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{prefix}{'' if value else 'no-'}{spelled}")
        elif isinstance(value, list | tuple):
            if any(isinstance(one, str) and one.startswith("-") for one in value):
                return None
            words += [f"--{prefix}{spelled}", *map(str, value)]
        elif isinstance(value, Mapping) or value == "None":
            return None
        else:
            words += flag(prefix + spelled, value)
    return words
