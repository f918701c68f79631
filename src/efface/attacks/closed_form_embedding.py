"""Embeddings that make edited keys and values give the concept's again (RECE, ECCV 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from efface.contracts import Access, Attack, Paper
from efface.errors import BadRequest
from efface.hosts.readers import layer_weights
from efface.revival.attempts import Attempt
from efface.revival.recovering import recovering_rows
from efface.revival.target import named
from efface.revival.tokens import TOKEN_FAMILIES

if TYPE_CHECKING:
    from torch import Tensor

    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["ClosedFormEmbedding"]

LAYERS = "unet/key_value"


@dataclass(frozen=True, kw_only=True)
class ClosedFormEmbedding(Attack):
    """Solves for the rows of text that the edited layers turn into the concept's keys and values.

    RECE finds them to erase them; here they are drawn. One linear solve per strength, no network
    evaluation and no gradient: an edit of keys and values that can be inverted is undone to
    rounding, however well it holds against prompts. The rows e are those that the unedited text
    encoder gives the prompt with the concept's name, which is put at its end where it is missing.
    An erasure that leaves keys and values as they are (gated layers, an edited text encoder) gives
    nothing to solve for, and no attempt is made.

    Differs from the paper:
        Layers may be edited in any way, not by one map for all. The penalty on the rows' length is
        relative to the layers' mean squared gain; several are tried, the least first.
    """

    name: ClassVar[str] = "closed_form_embedding"
    paper: ClassVar[Paper | None] = Paper(
        "Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models",
        "2407.12383",
        2024,
    )
    access: ClassVar[Access] = "weights"
    families: ClassVar[frozenset[str]] = TOKEN_FAMILIES

    strengths: tuple[float, ...] = (1e-6, 1e-4, 1e-2, 1e-1)
    """Penalties on the length of rows; each is an attempt."""

    def __post_init__(self) -> None:
        if wrong := [strength for strength in self.strengths if not strength > 0]:
            raise BadRequest(f"strengths hold {wrong[0]}; each must be above zero")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:  # noqa: ARG002
        """Draws each trial's rows at each strength; nothing is drawn by chance."""
        edited = _copied(layer_weights(target.model, LAYERS))
        prompts = [named(trial, target.concept) for trial in target.trials]
        with target.unedited() as base:
            unedited = _copied(layer_weights(target.model, LAYERS))
            rows = base.conditions(prompts).rows
        same = all(torch.equal(edited[path], unedited[path]) for path in edited)
        if same and target.delta is not None:
            return
        opened = frozenset(range(len(prompts)))
        for strength in self.strengths:
            opened = yield [
                Attempt(
                    trial=trial,
                    prompt=prompts[trial],
                    seed=target.trials[trial].seed,
                    rows=recovering_rows(edited, unedited, rows[trial], strength=strength),
                    note=f"rows with a penalty of {strength:g} on their length",
                )
                for trial in sorted(opened)
            ]


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {path: weight.to("cpu", torch.float64, copy=True) for path, weight in weights.items()}
