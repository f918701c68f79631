"""Prompts as tokens that an attack may choose: places for them, their table, and back to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from efface.errors import BadRequest
from efface.hosts.components import unwrapped
from efface.hosts.conditions import Conditions
from efface.revival.target import Target

__all__ = ["ENCODER", "TOKEN_FAMILIES", "Placement", "Places", "Tokens", "project_to_simplex"]

ENCODER = "text_encoder"
"""The encoder whose tokens are attacked."""
TOKEN_FAMILIES = frozenset({"sd1", "sd2"})
"""Families that read one text encoder, so that chosen tokens are all that is read."""
Placement: TypeAlias = Literal["prefix", "suffix", "insert"]


@dataclass(frozen=True, eq=False)
class Places:
    """Prompts of trials with places for chosen tokens, as ids of the encoder's whole length."""

    prompts: tuple[str, ...]
    ids: Int[Tensor, "trials length"]
    chosen: Int[Tensor, "trials k"]
    """Positions of the chosen tokens."""
    ends: Int[Tensor, " trials"]
    """Position of each end token."""

    def __getitem__(self, trials: Sequence[int]) -> Places:
        """Selects trials."""
        index = torch.tensor(list(trials))
        prompts = tuple(self.prompts[trial] for trial in trials)
        return Places(prompts, self.ids[index], self.chosen[index], self.ends[index])

    def filled(self, tokens: Int[Tensor, "trials k"]) -> Int[Tensor, "trials length"]:
        """Puts chosen tokens into their places."""
        return self.ids.scatter(1, self.chosen, tokens)


class Tokens:
    """The tokens of a target's text encoder, and prompts made of them.

    Args:
        target: the model under attack; its edited encoder reads what is chosen.
        forbid_name: whether tokens of the target's forbidden names may not be chosen.
    """

    def __init__(self, target: Target, *, forbid_name: bool = True) -> None:
        self._target = target
        self._encoder: Any = unwrapped(target.model.text_encoder)
        self._tokenizer: Any = target.model.tokenizer
        self._forbid_name = forbid_name

    @property
    def table(self) -> Float[Tensor, "vocabulary dim"]:
        """The edited encoder's input embeddings."""
        weight: Tensor = self._encoder.get_input_embeddings().weight.detach()
        return weight

    @cached_property
    def allowed(self) -> Bool[Tensor, " vocabulary"]:
        """Says which tokens may be chosen: words and pieces that can be typed and are not special.

        Pieces that do not end a word run into what follows, so only tokens that read back as
        themselves are allowed.
        """
        number = len(self.table)
        free = torch.zeros(number, dtype=torch.bool)
        named = {
            token
            for name in self._target.forbidden
            for token in self._tokenizer(name, add_special_tokens=False)["input_ids"]
        }
        special = set(self._tokenizer.all_special_ids)
        for token in range(min(number, len(self._tokenizer))):
            if token in special or (self._forbid_name and token in named):
                continue
            text = self._tokenizer.decode([token]).strip()
            back = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            free[token] = text != "" and list(back) == [token]
        if not bool(free.any()):
            raise BadRequest("the tokenizer has no token that reads back as itself")
        return free

    def places(
        self, prompts: Sequence[str], count: int, *, placement: Placement = "prefix"
    ) -> Places:
        """Makes room for chosen tokens in prompts.

        Args:
            prompts: one a trial.
            count: of chosen tokens.
            placement: before the prompt, after it, or spread evenly through it.

        Raises:
            BadRequest: a prompt with them is longer than the encoder reads.
        """
        text = self._target.denoiser.text
        ids, chosen, ends = [], [], []
        for prompt in prompts:
            known = text.tokenised(prompt)
            content, length = list(known.content), len(known.ids)
            if known.end + count >= length:
                raise BadRequest(
                    f"the prompt '{prompt}' with {count} further tokens is longer than the "
                    f"{length} that the text encoder reads; shorten either"
                )
            starts = _starts(placement, count, len(content))
            mixed: list[int | None] = list(content)
            for place in reversed(starts):
                mixed.insert(place, None)
            row = [known.ids[0], *(0 if one is None else one for one in mixed)]
            row += known.ids[known.end :][: length - len(row)]
            row += [known.ids[-1]] * (length - len(row))
            ids.append(row)
            chosen.append([1 + place for place, one in enumerate(mixed) if one is None])
            ends.append(known.end + count)
        return Places(tuple(prompts), torch.tensor(ids), torch.tensor(chosen), torch.tensor(ends))

    def embeddings(
        self, places: Places, chosen: Float[Tensor, "trials k dim"]
    ) -> Float[Tensor, "trials length dim"]:
        """Gives input embeddings of all positions, those of chosen tokens as they are given."""
        rows = self.table[places.ids.to(self.table.device)]
        index = places.chosen.to(rows.device)[:, :, None].expand(-1, -1, rows.shape[-1])
        return rows.scatter(1, index, chosen.to(rows))

    def encode(
        self, places: Places, chosen: Float[Tensor, "trials k dim"], *, gradients: bool = True
    ) -> Conditions:
        """Encodes trials with embeddings in their places, by the edited encoder as it is now."""
        given = {ENCODER: self.embeddings(places, chosen)}
        host = self._target.denoiser.host
        # What is read stands in the embeddings; texts only say how many there are.
        return host.encode([""] * len(places.ids), gradients=gradients, embeddings=given)

    def words(self, places: Places, tokens: Int[Tensor, "trials k"]) -> list[str]:
        """Writes filled prompts as text that can be typed."""
        texts = []
        for row, end in zip(places.filled(tokens).tolist(), places.ends.tolist(), strict=True):
            texts.append(" ".join(self._tokenizer.decode(row[1:end]).split()))
        return texts

    def reads_back(self, text: str, row: Sequence[int]) -> bool:
        """Says whether a text is cut into just these tokens (begin and end left out)."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) == list(row)

    def given(self, places: Places, trial: int, chosen: Tensor) -> Mapping[str, Tensor]:
        """Gives what an `Attempt` needs to be drawn from embeddings.

        Args:
            places: of all trials.
            trial: which of them.
            chosen: embeddings in its places, ``k dim``.
        """
        whole = self.embeddings(places[[trial]], chosen[None])[0]
        return {ENCODER: whole.detach().cpu()}


def project_to_simplex(rows: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
    """Projects each row onto the probability simplex, exactly and for all rows at once.

    By sorting (J. Duchi et al., ICML 2008): the threshold is that of the largest set of entries
    that stay positive.
    """
    ordered = rows.sort(dim=-1, descending=True).values
    sums = ordered.cumsum(dim=-1) - 1
    ranks = torch.arange(1, rows.shape[-1] + 1, device=rows.device, dtype=rows.dtype)
    positive = ordered - sums / ranks > 0
    last = positive.sum(dim=-1, keepdim=True)
    threshold = sums.gather(-1, last - 1) / last
    return (rows - threshold).clamp(min=0)


def _starts(placement: Placement, count: int, length: int) -> list[int]:
    """Says before which content token each chosen one comes."""
    if placement == "prefix":
        return [0] * count
    if placement == "suffix":
        return [length] * count
    return [round(place * length / count) for place in range(count)]
