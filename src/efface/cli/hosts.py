"""Models and requests as the command line names them; the bundled model knows its own words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts import Concept, ConceptKind, ErasureRequest, request
from efface.errors import BadRequest

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["BUNDLED", "Wanted", "load_host", "request_for", "unknown_words"]

BUNDLED = "emoji"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user typed about concepts."""

    concepts: tuple[str, ...]
    kind: ConceptKind | None = None
    anchor: str | None = None
    keep: tuple[str, ...] = ()


def load_host(name: str, output: Output) -> Any:
    """Loads a model by its name on the command line, and silences its own progress bars.

    Raises:
        BadModel: no such model, or its files are missing, cut short or of the wrong shape.
    """
    import efface

    with output.progress(f"loading {name}"):
        pipe = efface.load(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def request_for(model: str, wanted: Wanted) -> ErasureRequest:
    """Writes the request; on the bundled model words bring their synonyms and a keep set.

    Raises:
        BadRequest: no concept, an empty one, one that is its own anchor, or one that is also kept.
    """
    if not wanted.concepts:
        raise BadRequest("nothing to erase: give --concept NAME, once per concept")
    concepts = [_concept(model, name, wanted.kind) for name in wanted.concepts]
    anchor = _concept(model, wanted.anchor, wanted.kind) if wanted.anchor else None
    keep = [_concept(model, name, wanted.kind) for name in wanted.keep]
    made = request(concepts, anchor=anchor, keep=keep)
    return _with_default_keep(made) if model == BUNDLED and not keep else made


def _concept(model: str, name: str, kind: ConceptKind | None) -> Concept:
    if model == BUNDLED and kind is None:
        from efface.emoji import vocabulary

        if vocabulary.canonical(name) is not None:
            return vocabulary.concept(name)
    return Concept(name=name, kind=kind or "object")


def _with_default_keep(made: ErasureRequest) -> ErasureRequest:
    from efface.emoji import keep_concepts

    return ErasureRequest(erasures=made.erasures, keep=tuple(keep_concepts(made)))


def unknown_words(made: ErasureRequest) -> list[str]:
    """Lists the concepts of a request that the bundled model was never taught."""
    from efface.emoji import vocabulary

    concepts = [erasure.concept for erasure in made.erasures] + list(made.keep)
    return [one.name for one in concepts if vocabulary.canonical(one.name) is None]
