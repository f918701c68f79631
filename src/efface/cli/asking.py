"""Requests as the command line names them; the bundled model knows its own words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from efface.cli.shell import Repeated, Shared
from efface.concepts import ConceptKind, ErasureRequest
from efface.runs.words import Words, understood
from efface.workbench.models import BUNDLED, Place

__all__ = ["Asking", "Placed"]


@dataclass(frozen=True, kw_only=True)
class Placed(Place, Shared):
    """Where a model is put, and in what it computes."""


@dataclass(frozen=True, kw_only=True)
class Asking(Shared):
    """What is meant, and in which model."""

    concept: Repeated = ()
    """What to erase; repeat for several at once."""
    model: str = BUNDLED
    """The bundled model, a diffusers folder, or a hub id; or a model that reads pictures:
    icons-vit, icons-identities or icons-detector, or a folder of transformers."""
    kind: ConceptKind | None = None
    """What the names are; by default an object, or what the bundled model knows the word as."""
    synonyms: Repeated = ()
    """Another name of the same thing, erased with it; repeat for several. Of several concepts,
    write CONCEPT=NAME. The bundled model knows its own."""
    keep: Repeated = ()
    """What must stay; repeat for several. The bundled model has a default set."""
    keep_kind: ConceptKind | None = None
    """What the kept names are; by default the same kind."""

    def words(self) -> Words:
        """Takes what was typed about concepts."""
        return Words(
            concepts=self.concept,
            kind=self.kind,
            anchor=getattr(self, "anchor", None),
            keep=self.keep,
            keep_kind=self.keep_kind,
            synonyms=self.synonyms,
            images=getattr(self, "images", ()),
            forget_data=_place(getattr(self, "forget_data", None)),
            retain_data=_place(getattr(self, "retain_data", None)),
        )

    def request(self) -> ErasureRequest:
        """Writes the request; the bundled model fills in synonyms, prompts and what to keep.

        Raises:
            BadRequest: no concept, an empty one, one that is its own anchor, or one that is kept.
        """
        return understood(self.words().request(), self.model)


def _place(given: Path | None) -> str | None:
    return None if given is None else str(given)
