"""Random tokens before the prompt: what a lucky or careless user types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from efface.contracts import Access, Attack
from efface.errors import require_positive
from efface.revival.attempts import Attempt
from efface.revival.tokens import TOKEN_FAMILIES, Placement, Tokens

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["RandomPrefix"]


@dataclass(frozen=True, kw_only=True)
class RandomPrefix(Attack):
    """Puts random tokens before each prompt, again and again.

    The prompt keeps the concept's name. Gates and keep sets that know the usual wordings alone fail
    here. The same number of tries with random tokens is the base line for every search of tokens.
    """

    name: ClassVar[str] = "random_prefix"
    access: ClassVar[Access] = "text"
    families: ClassVar[frozenset[str]] = TOKEN_FAMILIES
    needs_name: ClassVar[bool] = True

    tokens: int = 3
    """Random tokens in each prompt."""
    tries: int = 8
    """Prompts per trial."""
    placement: Placement = "prefix"
    """Where the tokens come."""

    def __post_init__(self) -> None:
        require_positive(self, "tokens", "tries")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Draws tokens for all trials at once, a row a trial, whatever is still open."""
        vocabulary = Tokens(target)
        prompts = [trial.prompt for trial in target.trials]
        places = vocabulary.places(prompts, self.tokens, placement=self.placement)
        free = vocabulary.allowed.nonzero().flatten()
        opened = frozenset(range(len(prompts)))
        for _ in range(self.tries):
            drawn = torch.randint(len(free), (len(prompts), self.tokens), generator=generator)
            texts = vocabulary.words(places, free[drawn])
            opened = yield [
                Attempt(trial=trial, prompt=texts[trial], seed=target.trials[trial].seed)
                for trial in sorted(opened)
            ]
