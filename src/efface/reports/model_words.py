"""How reports speak of each kind of model: what is looked at, and what a number says."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from efface.contracts import ModelKind, Role
from efface.evaluation.record import Evaluation
from efface.hosts.host import FIRST_FRAMES

__all__ = ["ROLES", "ROLES_EXPLAINED", "ModelWords", "words_for", "words_of_kind"]

ROLES: dict[Role, str] = {
    "erased": "Erased",
    "synonym": "Synonyms",
    "paraphrase": "Paraphrases",
    "earlier": "Erased earlier",
    "neighbour": "Neighbours",
    "kept": "Kept",
    "missing": "Kept, not in training",
    "composition": "Composition",
    "general": "General",
}
ROLES_EXPLAINED: dict[Role, str] = {
    "erased": "prompts that name what was to go",
    "synonym": "other names of the same thing",
    "paraphrase": "descriptions that do not use its names",
    "earlier": "what earlier requests erased",
    "neighbour": "things that look or mean something close, and must stay",
    "kept": "things that must stay",
    "missing": "things that must stay and that training saw nothing of",
    "composition": "several kept things in one picture, how many of one, or where one is",
    "general": "prompts about something else altogether",
}

_TAKEN_OFF = """import efface

pipe = efface.load({base})
delta = efface.Delta.load("delta.safetensors")
with delta.apply(pipe):
    {use}"""

_VIDEO = 'frames = pipe("a prompt").frames[0]'
"""A line of code that uses a pipeline of videos."""


@dataclass(frozen=True, kw_only=True)
class ModelWords:
    """Phrases for one kind of model; ``{...}`` is filled in."""

    model: str
    """What is changed, with its article."""
    library: str
    """Which library loads it, as hubs name it."""
    task: str
    """What it does, as hubs name it."""
    use: str
    """A line of code that uses it."""
    seen: str
    """What was found, before and after."""
    seen_once: str
    """What the unedited model does."""
    tiles: str
    """What the large numbers are shares of."""
    pairs: str
    """Heads pictures before and after."""
    went: str
    """Explains where what was to go went."""
    first: str
    """Heads what is seen instead."""
    number: str = "seed"
    """What a picture's number is."""
    counted: str = "pictures"
    """What shares are shares of."""
    gone: str = "gone from the pictures looked at"
    """Where what was to go is not any more."""
    left: str = "in some of the pictures that must not show it"
    """Where some of it still is."""
    beside: str = "In how many pictures of each thing that must stay the judge sees it."
    """Explains the numbers of single things that must stay."""
    held_out: str = "held-out pictures"
    """What was looked at, of models that read pictures."""
    explained: dict[Role, str] = field(default_factory=dict)
    """What roles are, where it is something else than for prompts."""
    asks: dict[Role, str] = field(default_factory=dict)
    """Whose share a role's large number is."""
    not_tested: tuple[str, ...] = ()
    """What no measurement of this kind of model looks at."""

    def role(self, role: Role) -> str:
        """Explains a role."""
        return self.explained.get(role, ROLES_EXPLAINED[role])

    def code(self, base: str, notes: Collection[str] = ()) -> str:
        """Writes how the delta is used on a model.

        Args:
            base: the model.
            notes: of the evaluation, which say where a pipeline draws videos.
        """
        return _TAKEN_OFF.format(base=base, use=_VIDEO if FIRST_FRAMES in notes else self.use)


_OF_PICTURES: dict[Role, str] = {
    "erased": "pictures of what was to go",
    "earlier": "pictures of what earlier requests erased",
    "kept": "pictures of everything else",
    "missing": "pictures of kept things of which training saw none",
}
_ASKED: dict[Role, str] = {
    "erased": "what was to go",
    "earlier": "what earlier requests erased",
    "kept": "what stays",
    "missing": "what stays and had no picture in training",
}
_NOT_TESTED = (
    "training that teaches what was erased again, unless a row above measures it",
    "pictures of other cameras, makers and backgrounds than the held-out ones",
)

_WORDS: dict[ModelKind, ModelWords] = {
    "generator": ModelWords(
        model="a text-to-image model",
        library="diffusers",
        task="text-to-image",
        use='image = pipe("a prompt").images[0]',
        seen="The judge sees {what} in {before} of the pictures before and {after} after",
        seen_once="The unedited model shows {what} in {before} of its pictures.",
        tiles=(
            "Share of pictures in which the judge sees the thing named below each number: in "
            "prompts of what was to go, {what}; in prompts of other things, these."
        ),
        pairs="Same prompt, same seed",
        went=(
            "What the judge sees first in pictures of prompts of what was to go, and in how many "
            "of them."
        ),
        first="what prompts of {what} show first",
    ),
    "classifier": ModelWords(
        model="an image classifier",
        library="transformers",
        task="image-classification",
        use="names = pipe.classify(pictures)",
        seen="The model recognises {what} in {before} of their pictures before and {after} after",
        seen_once="The unedited model recognises {what} in {before} of their pictures.",
        tiles="Share of held-out pictures to which the model gives their true name.",
        pairs="The same pictures, and what the model calls them",
        went="What the model calls pictures of what was to go, and how many of them.",
        first="what pictures of {what} are called",
        number="picture",
        gone="recognised no more in the pictures looked at",
        left="recognised in some of its pictures",
        beside="How many pictures of each kept class the model gives their true name.",
        explained=_OF_PICTURES,
        asks=_ASKED,
        not_tested=_NOT_TESTED,
    ),
    "detector": ModelWords(
        model="an object detector",
        library="transformers",
        task="object-detection",
        use="found = pipe.detect(pictures)",
        seen="The model finds {before} of the {what} in held-out scenes before and {after} after",
        seen_once="The unedited model finds {before} of the {what} in held-out scenes.",
        tiles="Share of things in held-out scenes that the model finds in their places.",
        pairs="The same scenes, and what the model finds",
        went="What the model calls the places where what was to go is, and how many of them.",
        first="what places of {what} are called",
        number="thing",
        counted="things",
        gone="not found any more where it is in the scenes looked at",
        left="found in some of the places where it is",
        beside="How many things of each kept class the model finds in their places.",
        held_out="things in held-out scenes",
        explained=_OF_PICTURES,
        asks=_ASKED,
        not_tested=_NOT_TESTED,
    ),
}
_WORDS["recogniser"] = _WORDS["classifier"]


def words_of_kind(kind: ModelKind) -> ModelWords:
    """Gives the phrases for a kind of model."""
    return _WORDS[kind]


def words_for(evaluation: Evaluation) -> ModelWords:
    """Gives the phrases for the kind of model that was measured."""
    return _WORDS[evaluation.model_kind]
