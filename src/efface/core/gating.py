"""Gates made from a request: what opens a membrane, and what must leave it shut."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from efface.core.gates import PromptGate
from efface.core.gradient_runs import GradientRun

__all__ = ["GateKind", "gate_for"]

GateKind: TypeAlias = Literal["none", "linear", "official"]
"""Always open; open as far as a prompt is like the concept; or that squared, as released."""

WORDINGS_A_NAME = 4
"""Wordings from which a name's token rows are taken; they differ a little with what is before."""


def gate_for(run: GradientRun, kind: GateKind, *, shut_for_kept: bool) -> PromptGate | None:
    """Makes the gate of a request's membranes, one for each concept.

    Args:
        run: knows the wordings of what is erased and the kept prompts.
        kind: how it opens.
        shut_for_kept: stay shut up to the largest likeness of any kept prompt and of the empty one;
            else it opens from zero likeness on, as in the paper.
    """
    if kind == "none":
        return None
    rows = run.prompts.rows.float().cpu()
    words, word_name, name_owner = _words(run, rows)
    count = len(run.request.erasures)
    gate = PromptGate(
        prompts=functional.normalize(rows.flatten(1), dim=1),
        prompt_owner=run.owners,
        words=words,
        word_name=word_name,
        name_owner=name_owner,
        floor=torch.zeros(count),
        squared=torch.tensor(int(kind == "official")),
    )
    if not shut_for_kept:
        return gate
    held = torch.cat([run.kept_prompts.rows, run.empty(1).rows]).float().cpu()
    return replace(gate, floor=gate.likeness(held).amax(dim=0).clamp(max=0.99))


def _words(run: GradientRun, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Collects the rows of names in some wordings: unit rows, their name, its membrane."""
    used: dict[tuple[int, str], int] = {}
    parts: list[Tensor] = []
    names: list[int] = []
    owners: list[int] = []
    for place, wording in enumerate(run.wordings):
        owner = int(run.owners[place])
        taken = used.get((owner, wording.name), 0)
        if not wording.name or taken >= WORDINGS_A_NAME:
            continue
        used[owner, wording.name] = taken + 1
        first, last = run.denoiser.text.span(wording.prompt, wording.name)
        parts.append(functional.normalize(rows[place, first : last + 1], dim=1))
        names += [len(owners)] * (last + 1 - first)
        owners.append(owner)
    found = torch.cat(parts) if parts else rows.new_zeros(0, rows.shape[2])
    return found, torch.tensor(names, dtype=torch.long), torch.tensor(owners, dtype=torch.long)
