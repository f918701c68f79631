"""The closed form of debiasing: a concept's rows, moved toward rows of weighted attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from efface.closed_form.text_space import Solution, TokenPairs, Weighting, collapsed, ridge_edit
from efface.concepts import Concept, wordings
from efface.errors import BadRequest
from efface.hosts.streams import TextStream
from efface.text.branches import TextBranch
from efface.text.keep_sets import KeepSet
from efface.text.token_rules import PromptPair, TokenRule, erased_rows

__all__ = ["Balance", "distance", "next_weights"]


@dataclass(frozen=True)
class Balance:
    """What one branch needs to move a concept toward attributes, whatever their weights."""

    sources: Float[Tensor, "n dim"]
    """Rows of the concept's wordings, from its last token on."""
    attributes: Float[Tensor, "k n dim"]
    """Rows of every attribute's name, aligned with those of the concept."""
    kept: KeepSet

    @classmethod
    def of(
        cls,
        branch: TextBranch,
        concept: Concept,
        attributes: Sequence[str],
        keep: Sequence[Concept],
        *,
        tokens: TokenRule,
    ) -> Balance:
        """Embeds the concept, the attributes and what is kept; the empty prompt always is.

        Raises:
            BadRequest: a wording or an attribute has no tokens.
        """
        parts = [_rows(stream, concept, attributes, tokens) for stream in branch.streams]
        sources = torch.cat([source for source, _ in parts])
        toward = torch.cat([rows for _, rows in parts], dim=1)
        return cls(sources, toward, branch.kept(keep, tokens=tokens, always=("",)))

    def edit(
        self,
        weights: Float[Tensor, " k"],
        *,
        keep_scale: float,
        ridge: float,
        weighting: Weighting,
    ) -> Solution:
        """Solves for targets ``c + sum_a s_a attribute_a`` (UCE, section on debiasing).

        Args:
            weights: s, one number per attribute; all zero gives the identity exactly.
            keep_scale: weight of the kept rows.
            ridge: see `efface.closed_form.text_space.ridge_edit`.
            weighting: whether both sides count by their rows or as one.

        Raises:
            BadRequest: the system has no stable solution; raise ``ridge``.
        """
        added = torch.einsum("k,knd->nd", weights, self.attributes)
        ones = torch.ones(len(self.sources), dtype=torch.float64)
        pairs = collapsed(TokenPairs(self.sources, self.sources + added, ones))
        moved, held = self.kept.factors(float(pairs.weights.sum()), weighting)
        kept = keep_scale * self.kept.weighted(held)
        return ridge_edit(pairs.scaled(moved), kept, ridge=ridge)


def _rows(
    stream: TextStream, concept: Concept, attributes: Sequence[str], tokens: TokenRule
) -> tuple[Float[Tensor, "n dim"], Float[Tensor, "k n dim"]]:
    """Aligns every attribute with every wording at the last token; tails end with the shortest."""
    texts = wordings(concept)
    stream.embedded([*texts, *attributes])
    sources, toward = [], []
    for text in texts:
        aligned = [erased_rows(stream, _pair(stream, text, each), tokens) for each in attributes]
        length = min(len(pairs.sources) for pairs in aligned)
        sources.append(aligned[0].sources[:length])
        toward.append(torch.stack([pairs.targets[:length] for pairs in aligned]))
    return torch.cat(sources), torch.cat(toward, dim=1)


def _pair(stream: TextStream, wording: str, attribute: str) -> PromptPair:
    source, target = stream.tokenised(wording), stream.tokenised(attribute)
    for found in (source, target):
        if not found.content:
            raise BadRequest(f"'{found.text}' has no tokens in this model; word it anew")
    return PromptPair(wording, attribute, source.last, target.last, source.last)


def next_weights(
    weights: Float[Tensor, " k"],
    *,
    wanted: Float[Tensor, " k"],
    found: Float[Tensor, " k"],
    step: float,
) -> Float[Tensor, " k"]:
    """Moves every attribute's weight in proportion to the share that it lacks."""
    return weights + step * (wanted - found)


def distance(wanted: Float[Tensor, " k"], found: Float[Tensor, " k"]) -> float:
    """Gives the total variation distance, 0 to 1; what none of the attributes got counts too."""
    rest = (wanted.sum() - found.sum()).abs()
    return float(((wanted - found).abs().sum() + rest) / 2)
