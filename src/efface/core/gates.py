"""Gates that open low-rank layers by what a prompt says, sample by sample (SPM, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from efface.core.adapters import LowRankLayer, attach, layer_behind
from efface.core.patches import LowRankPatch, Patch
from efface.errors import BadDelta
from efface.models.components import component

__all__ = ["PromptGate", "attach_gated"]


@dataclass(frozen=True, eq=False)
class PromptGate:
    """How far each membrane opens for a prompt: by the prompt's rows, so in any pipeline.

    The opening is the larger of two likenesses: the cosine of the prompt's rows, all in a row, with
    those of the nearest erased prompt; and the share of a name's token rows that the prompt has.
    (The paper compares token ids; a denoiser sees none, so rows are compared.)
    Likeness up to ``floor`` keeps a membrane shut; above that it opens linearly up to ``ceiling``.
    """

    prompts: Float[Tensor, "prompts values"]
    """Rows of erased prompts, one after the other, as unit vectors."""
    prompt_owner: Int[Tensor, " prompts"]
    """Which membrane each prompt opens."""
    words: Float[Tensor, "rows dim"]
    """Rows of the concepts' names less the center, as unit vectors."""
    center: Float[Tensor, " dim"]
    """Mean row of other prompts: what all token rows share tells no word from another."""
    word_floor: Float[Tensor, " rows"]
    """Cosine to each of them that a row of a prompt must pass to count as the same word."""
    word_name: Int[Tensor, " rows"]
    """Which name each row is of."""
    name_owner: Int[Tensor, " names"]
    """Which membrane each name opens."""
    floor: Float[Tensor, " membranes"]
    """Likeness up to which a membrane stays shut."""
    ceiling: Float[Tensor, " membranes"]
    """Likeness from which it is wide open."""
    squared: Int[Tensor, ""]
    """1: the opening is squared, as in the released code, which multiplies both factors by it."""

    @property
    def membranes(self) -> int:
        """How many membranes there are."""
        return len(self.floor)

    def likeness(self, rows: Float[Tensor, "n tokens dim"]) -> Float[Tensor, "n membranes"]:
        """Measures how alike prompts are to what each membrane erases, at most 1."""
        wide = rows.to(self.prompts)
        flat = functional.normalize(wide.flatten(1), dim=1)
        found = _by_owner(flat @ self.prompts.T, self.prompt_owner, self.membranes)
        if len(self.words):
            unit = functional.normalize(wide - self.center, dim=2)
            there = ((unit @ self.words.T).amax(dim=1) > self.word_floor).to(wide)
            names = len(self.name_owner)
            count = torch.zeros(names).index_add(0, self.word_name, torch.ones(len(self.words)))
            hits = torch.zeros(len(rows), names).to(wide).index_add(1, self.word_name, there)
            shares = hits / count.to(wide)
            found = torch.maximum(found, _by_owner(shares, self.name_owner, self.membranes))
        return found.clamp(max=1.0)

    def openings(self, rows: Float[Tensor, "n tokens dim"]) -> Float[Tensor, "n membranes"]:
        """Gives how far every membrane opens for every prompt, 0 to 1."""
        like = self.likeness(rows)
        span = (self.ceiling - self.floor).clamp(min=1e-6)
        opened = ((like - self.floor) / span).clamp(0.0, 1.0)
        return opened**2 if int(self.squared) else opened

    def tensors(self) -> dict[str, Tensor]:
        """Lists the tensors by the names that files use."""
        return {f"gate::{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor]) -> PromptGate | None:
        """Reads what `tensors` lists; None where there is no gate."""
        if "gate::floor" not in tensors:
            return None
        return cls(**{field.name: tensors[f"gate::{field.name}"] for field in fields(cls)})

    @classmethod
    def joined(cls, gates: Sequence[PromptGate]) -> PromptGate:
        """Puts the gates of stacked membranes after one another.

        Raises:
            BadDelta: they read texts of different length or width, or differ in squaring.
        """
        first = gates[0]
        for gate in gates[1:]:
            same = gate.prompts.shape[1] == first.prompts.shape[1]
            if not same or int(gate.squared) != int(first.squared):
                raise BadDelta("gates of different models or kinds cannot stand side by side")
        shifts = torch.tensor([0, *(gate.membranes for gate in gates[:-1])]).cumsum(0).tolist()
        names = torch.tensor([0, *(len(g.name_owner) for g in gates[:-1])]).cumsum(0).tolist()
        return cls(
            prompts=torch.cat([gate.prompts for gate in gates]),
            prompt_owner=torch.cat(
                [g.prompt_owner + s for g, s in zip(gates, shifts, strict=True)]
            ),
            words=torch.cat([gate.words for gate in gates]),
            word_floor=torch.cat([gate.word_floor for gate in gates]),
            center=torch.stack([gate.center for gate in gates]).mean(dim=0),
            word_name=torch.cat([g.word_name + s for g, s in zip(gates, names, strict=True)]),
            name_owner=torch.cat([g.name_owner + s for g, s in zip(gates, shifts, strict=True)]),
            floor=torch.cat([gate.floor for gate in gates]),
            ceiling=torch.cat([gate.ceiling for gate in gates]),
            squared=first.squared,
        )


def _by_owner(
    likeness: Float[Tensor, "n items"], owners: Int[Tensor, " items"], membranes: int
) -> Float[Tensor, "n membranes"]:
    """Takes the largest likeness among the items of each membrane."""
    found = likeness.new_zeros(len(likeness), membranes)
    index = owners.to(likeness.device).expand(len(likeness), -1)
    return found.scatter_reduce(1, index, likeness, reduce="amax")


def attach_gated(
    model: Any, patches: Mapping[str, Patch], gate: PromptGate, scale: float
) -> list[Any]:
    """Adds gated low-rank layers to a model; removing the handles takes them off.

    A hook before the denoiser reads each sample's text and sets the gates, so that prompts of one
    batch each get their own, with and without guidance.

    Raises:
        BadDelta: a patch is not of low rank, or does not hold the same rank for every membrane.
    """
    (part,) = {key.partition("/")[0] for key in patches}
    network = component(model, part)
    layers: dict[nn.Module, LowRankLayer] = {}
    for key, patch in patches.items():
        if not isinstance(patch, LowRankPatch) or len(patch.down) % gate.membranes:
            raise BadDelta(f"the gate has {gate.membranes} membranes and {key} does not fit them")
        layer = layer_behind(model, key)
        weight: Any = layer.weight
        layers[layer] = LowRankLayer(patch.down.to(weight), (scale * patch.up).to(weight))
    now: list[Tensor | None] = [None]

    def read(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows = named["encoder_hidden_states"] if "encoder_hidden_states" in named else given[2]
        now[0] = gate.openings(rows.detach().cpu()).to(rows.device)

    return [
        network.register_forward_pre_hook(read, with_kwargs=True),
        *attach(layers, lambda: now[0]),
    ]
