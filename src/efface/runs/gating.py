"""Gates made from a request: what opens a membrane, and what must leave it shut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from efface.concepts import Concept
from efface.concepts import wordings as prompts_of
from efface.deltas.adapters import Adapters
from efface.deltas.gates import PromptGate
from efface.diffusion.denoising import Denoiser
from efface.errors import BadRequest
from efface.hosts.host import Host
from efface.runs.closest_part import closest_part
from efface.runs.gradient_eraser import Wording
from efface.training.hooks import Plain

__all__ = ["GateKind", "GateRule", "OpensBy", "Released", "Unconditional", "gate_for"]

GateKind: TypeAlias = Literal["none", "linear", "official"]
"""Always open; open as far as a prompt is like the concept; or that squared, as released."""
Unconditional: TypeAlias = Literal["own", "same"]
"""What opens membranes for the prediction without the prompt: its own text, or the prompt."""
OpensBy: TypeAlias = Literal["whole_prompt", "closest_part"]
"""What of a prompt must be like the concept: all of it and of a name, or any one of its rows."""

SHUT_FOR = 0.98
"""Share of the kept prompts that leave a calibrated membrane shut."""
SAME_WORD = 0.8
"""Cosine that a row must pass to count as a concept's word; more, if a kept prompt comes nearer."""
WORDINGS_PER_NAME = 4
"""Wordings from which a name's token rows are taken; they differ a little with what is before."""


class Released(Plain):
    """Opens all membranes again after every step, so that whoever looks on can draw."""

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters

    def after_step(self) -> None:
        """Forgets the gates of the step's samples."""
        self._adapters.gates = None


@dataclass(frozen=True, kw_only=True)
class GateRule:
    """How membranes open when drawing."""

    kind: GateKind = "linear"
    calibrated: bool = False
    """Stay shut up to the likeness that `SHUT_FOR` of the kept prompts and the empty one do not
    pass, and be wide open halfway from there to how alike the concept's own wordings are; else open
    linearly from no likeness to full likeness, as in the paper."""
    unconditional: Unconditional = "own"
    names_alone: bool = False
    """Whether whole prompts are compared to bare names alone, as in the released code, and not to
    other wordings."""
    opens_by: OpensBy = "whole_prompt"
    """Whether a part of a prompt opens a membrane as well; see `closest_part`."""

    def check(self, host: Host) -> None:
        """Refuses what pipelines of a family could not do.

        Raises:
            BadRequest: the prompt is to open membranes of a pass that it has no part in.
        """
        if self.kind != "none" and self.unconditional == "same" and not host.guides_in_pairs:
            raise BadRequest(
                f"pipelines of {host.title} do not ask with the prompt and without it in one pass, "
                "so that the prompt cannot open membranes for both; give unconditional as own"
            )


def gate_for(
    denoiser: Denoiser,
    wordings: Sequence[Wording],
    owners: Int[Tensor, " wordings"],
    keep: Sequence[Concept],
    *,
    rule: GateRule,
    generator: torch.Generator | None = None,
) -> PromptGate | None:
    """Makes the gate of membranes; None if they are always open.

    Args:
        denoiser: reads the prompts.
        wordings: what is erased.
        owners: which membrane each wording opens.
        keep: what is kept; its wordings tell what all texts share.
        rule: how they open.
        generator: draws random words, for membranes that the closest part opens.

    Raises:
        BadRequest: see `GateRule.check`.
    """
    if rule.kind == "none":
        return None
    rule.check(denoiser.host)
    rows = denoiser.conditions([wording.prompt for wording in wordings]).rows.float().cpu()
    kept = [prompt for concept in keep for prompt in prompts_of(concept)] or [""]
    kept_rows = denoiser.conditions([*kept, ""]).rows.float().cpu()
    center = kept_rows.flatten(0, 1).mean(dim=0)
    words, word_name, name_owner = _words(denoiser, wordings, owners, rows - center)
    count = int(owners.max()) + 1
    whole = [not rule.names_alone or each.prompt == each.name for each in wordings]
    gate = PromptGate(
        prompts=functional.normalize(rows[whole].flatten(1), dim=1),
        prompt_owner=owners[whole],
        words=words,
        center=center,
        word_floor=_nearest(kept_rows - center, words).clamp(min=SAME_WORD),
        word_name=word_name,
        name_owner=name_owner,
        floor=torch.zeros(count),
        ceiling=torch.ones(count),
        squared=torch.tensor(int(rule.kind == "official")),
        shared=rule.unconditional == "same",
    )
    if rule.opens_by == "closest_part":
        if generator is None:
            raise ValueError("a gate that opens by the closest part needs a generator")
        texts = list(dict.fromkeys([*kept, ""]))
        part = closest_part(denoiser, wordings, owners, texts, generator=generator)
        gate = replace(gate, part=part)
    if not rule.calibrated:
        return gate
    floor = gate.likeness(kept_rows).quantile(SHUT_FOR, dim=0)
    halfway = (floor + _own(gate)) / 2
    return replace(gate, floor=floor, ceiling=torch.maximum(halfway, floor + 0.01))


def _own(gate: PromptGate) -> Tensor:
    """Finds how alike the concept's own wordings are at least, each to the nearest other one."""
    likeness = (gate.prompts @ gate.prompts.T).fill_diagonal_(0)
    same = gate.prompt_owner[:, None] == gate.prompt_owner[None]
    nearest = torch.where(same, likeness, 0.0).amax(dim=1)
    least = torch.ones(gate.membranes)
    for owner in range(gate.membranes):
        others = nearest[gate.prompt_owner == owner]
        least[owner] = others.min() if len(others) > 1 else 1.0
    return least


def _nearest(rows: Tensor, words: Tensor) -> Tensor:
    """Finds the largest cosine of any row to each word's."""
    unit = functional.normalize(rows.flatten(0, 1), dim=1)
    cosines: Tensor = (unit @ words.T).amax(dim=0)
    return cosines


def _words(
    denoiser: Denoiser, wordings: Sequence[Wording], owner_of: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Collects the rows of names in some wordings: unit rows, their name, its membrane."""
    used: dict[tuple[int, str], int] = {}
    parts: list[Tensor] = []
    names: list[int] = []
    owners: list[int] = []
    for place, wording in enumerate(wordings):
        owner = int(owner_of[place])
        taken = used.get((owner, wording.name), 0)
        if not wording.name or taken >= WORDINGS_PER_NAME:
            continue
        used[owner, wording.name] = taken + 1
        first, last = denoiser.text.span(wording.prompt, wording.name)
        parts.append(functional.normalize(rows[place, first : last + 1], dim=1))
        names += [len(owners)] * (last + 1 - first)
        owners.append(owner)
    words = torch.cat(parts) if parts else rows.new_zeros(0, rows.shape[2])
    return words, torch.tensor(names, dtype=torch.long), torch.tensor(owners, dtype=torch.long)
