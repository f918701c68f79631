"""Parts of the unedited model put back: what anyone with the base can do for nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from efface.contracts import Access, Attack
from efface.revival.trials import drawn_with

if TYPE_CHECKING:
    import torch

    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["ComponentSwap"]


@dataclass(frozen=True, kw_only=True)
class ComponentSwap(Attack):
    """Takes each part of the erasure off by itself: gated layers, each text encoder, the denoiser.

    Maps of rows go with gated layers (``gate``): both stand beside the weights as a module.

    It costs no search: whoever has a published base model puts its part back, or leaves an adapter
    out. An erasure that lies in one part is undone by putting that part back, so ``parts`` leaves
    the denoiser out unless it is asked for: an erased denoiser is what is given away, while its
    text encoder is the same file in many models.
    """

    name: ClassVar[str] = "component_swap"
    access: ClassVar[Access] = "pipeline"
    needs_name: ClassVar[bool] = True

    parts: tuple[str, ...] = ("gate", "text_encoder", "text_encoder_2", "text_encoder_3")
    """What is put back, one after the other; ``unet`` or ``transformer`` undo what lies in them."""

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:  # noqa: ARG002
        """Draws each prompt once with each part put back."""
        return drawn_with(target, self._changes(target))

    def _changes(self, target: Target) -> Iterator[Mapping[str, Any]]:
        """Gives what is changed, one thing after the other."""
        for part in self.parts:
            if not _holds(target, part):
                continue
            yield {"without": frozenset({part}), "note": f"without the erasure's {part}"}


def _holds(target: Target, part: str) -> bool:
    """Says whether the erasure has anything in a part; of the unedited model each part is tried."""
    if target.delta is None:
        return True
    if part == "gate":
        return target.delta.gate is not None or bool(target.delta.row_maps)
    return any(key.startswith(f"{part}/") for key in target.delta.keys)
