"""A bundled model with its judges and prompts, loaded once in a process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from efface import registry
from efface.bundled.vocabulary import NOUNS, STYLES, canonical
from efface.bundled.vocabulary import concept as known_concept
from efface.errors import BadRequest
from efface.evaluation.samples import in_role
from efface.hosts.loading import load
from efface.runs.words import understood

if TYPE_CHECKING:
    from efface.bundled.judge import EmojiJudge
    from efface.bundled.judges import BundledJudge
    from efface.concepts import Concept, ErasureRequest
    from efface.contracts import Sample, Suite
    from efface.revival.shared import SharedPictures

__all__ = ["Bench"]


@dataclass(frozen=True)
class Bench:
    """What is needed to erase from a bundled model, to attack it and to judge its pictures."""

    model: str

    def __post_init__(self) -> None:
        if self.model not in registry.BUNDLED:
            raise BadRequest(
                f"'{self.model}' is not a bundled model, whose judges and prompts are known; "
                f"choose {', '.join(registry.BUNDLED)}"
            )

    @cached_property
    def pipe(self) -> Any:
        """The pipeline, unedited."""
        pipe = load(self.model)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @cached_property
    def shared(self) -> SharedPictures:
        """What attacks on this model draw alike."""
        from efface.revival.shared import SharedPictures

        return SharedPictures()

    @cached_property
    def judge(self) -> BundledJudge:
        """The judge of this model's pictures."""
        from efface.bundled.judges import bundled_judge

        return bundled_judge(registry.bundled(self.model).JUDGE)

    @cached_property
    def second(self) -> EmojiJudge | None:
        """A judge of another build and seed, for the bundled model itself."""
        from efface.bundled.judge import EmojiJudge

        return EmojiJudge("emoji-second") if self.judge.card.name == "emoji-judge" else None

    def request(self, name: str) -> ErasureRequest:
        """Writes the request that erases one concept and keeps all others."""
        from efface.concepts import request

        return understood(request(name), self.model)

    def suite(self, name: str, size: str = "short") -> Suite:
        """Gives the prompts and sampling of the model's suite."""
        from efface.evaluation.suites import suite_for

        usual = getattr(registry.bundled(self.model), "SUITE", "emoji")
        return suite_for(usual, self.request(name), size=size)

    def concept(self, name: str) -> Concept:
        """Gives a concept with all names that prompts use for it."""
        found = known_concept(name)
        if found.name in STYLES and STYLES[found.name].wording != found.name:
            return replace(found, synonyms=(STYLES[found.name].wording,))
        return found

    def wordings(self, name: str) -> tuple[str, ...]:
        """Lists other names and descriptions of a concept, of which erasures were given the names.

        The bundled model knows no description; emoji-reader does.
        """
        noun = NOUNS.get(canonical(name) or "")
        return (*noun.synonyms, *noun.paraphrases, *noun.descriptions) if noun else ()

    def trials(self, name: str, count: int) -> tuple[Sample, ...]:
        """Picks prompts and seeds of a concept, spread over styles and templates.

        Raises:
            BadRequest: the suite has fewer.
        """
        erased = in_role(self.suite(name).samples, "erased")
        if not 1 <= count <= len(erased):
            raise BadRequest(f"there are 1 to {len(erased)} trials, not {count}")
        stride = len(erased) / count
        return tuple(erased[int(place * stride)] for place in range(count))

    def others(self, name: str) -> tuple[str, ...]:
        """Writes a prompt for every other noun."""
        own = canonical(name)
        return tuple(f"a picture of {word}" for word in NOUNS if word != own)
