"""Prompts times seeds times roles: what is going to be drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from efface.concepts import Concept
from efface.contracts import Role, Sample
from efface.errors import BadRequest

__all__ = ["GOING", "NAMES", "ROLES", "STAYING", "checked", "crossed", "in_role"]

GOING: tuple[Role, ...] = ("erased", "synonym", "paraphrase", "earlier")
"""Roles whose concept must not be in the picture any more."""
STAYING: tuple[Role, ...] = ("neighbour", "kept", "missing", "composition", "general")
"""Roles whose pictures must stay as they were."""
ROLES: tuple[Role, ...] = (*GOING, *STAYING)
NAMES: dict[Role, str] = {
    "erased": "erased prompts",
    "synonym": "synonyms",
    "paraphrase": "paraphrases",
    "earlier": "what earlier requests erased",
    "neighbour": "neighbours",
    "kept": "kept prompts",
    "missing": "what had no picture in training",
    "composition": "several things in one picture",
    "general": "general prompts",
}


def crossed(
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    role: Role,
    concept: Concept | None = None,
    style: Concept | None = None,
) -> tuple[Sample, ...]:
    """Draws every prompt with every seed."""
    return tuple(
        Sample(prompt, seed, role, concept=concept, style=style)
        for prompt in prompts
        for seed in seeds
    )


def in_role(samples: Iterable[Sample], *roles: Role) -> tuple[Sample, ...]:
    """Picks the samples of some roles, in their order."""
    return tuple(sample for sample in samples if sample.role in roles)


def checked(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Passes samples on if an evaluation of them can mean anything.

    Raises:
        BadRequest: there are none, one is there twice, or no prompt of an erased concept is there.
    """
    if not in_role(samples, "erased"):
        raise BadRequest(
            "the suite has no prompt of an erased concept, so it cannot tell whether anything "
            "was erased; add samples with role 'erased'"
        )
    if any(sample.concept is None for sample in in_role(samples, *GOING)):
        raise BadRequest("a sample of an erased concept does not name the concept; give concept=")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise BadRequest(f"the suite draws '{sample.prompt}' with seed {sample.seed} twice")
        seen.add(sample.id)
    return tuple(samples)
