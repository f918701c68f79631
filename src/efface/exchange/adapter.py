"""A text map as a tiny file of its own: it changes prompt embeddings instead of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from efface.deltas.delta import Delta
from efface.deltas.patches import TextMapPatch
from efface.errors import BadDelta, BadRequest
from efface.exchange.headers import saved
from efface.exchange.low_rank import check_exportable
from efface.files import write_atomically
from efface.hosts.components import KEY_VALUE

__all__ = ["TextAdapter", "load_adapter", "write_adapter"]

FORMAT = "efface-text-adapter"


@dataclass(frozen=True)
class TextAdapter:
    """The map ``x + left (right x)`` of prompt embeddings.

    ``W (P x) = (W P) x``: giving a model mapped embeddings is giving mapped keys and values to the
    model, as long as nothing else reads the embeddings.
    """

    left: Float[Tensor, "dim rank"]
    right: Float[Tensor, "rank dim"]

    def __call__(
        self, prompt_embeds: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Maps embeddings; negative ones go through it as well.

        Raises:
            BadRequest: the embeddings have another width.
        """
        if prompt_embeds.shape[-1] != len(self.left):
            raise BadRequest(
                f"the adapter maps embeddings of {len(self.left)} values and was given "
                f"{prompt_embeds.shape[-1]}; it is for another text encoder"
            )
        left, right = self.left.to(prompt_embeds), self.right.to(prompt_embeds)
        mapped: Tensor = prompt_embeds + (prompt_embeds @ right.T) @ left.T
        return mapped


def write_adapter(
    delta: Delta, path: Path, facts: Mapping[str, str], *, scale: float = 1.0
) -> Path:
    """Writes the text map of a delta; it works with every checkpoint that shares the text encoder.

    Raises:
        BadRequest: the delta changes more than what reads text, or has no text map.
        BadDelta: its values are not finite.
    """
    check_exportable(delta, scale=scale)
    patch = delta.patches.get(KEY_VALUE)
    if not isinstance(patch, TextMapPatch) or len(delta.patches) > 1:
        raise BadRequest(
            "the delta is not one map of the text side, so embeddings cannot stand in for it; "
            "export it with --as diffusers-lora or --as diffusers"
        )
    tensors = {"left": (patch.left * scale).contiguous(), "right": patch.right.contiguous()}
    write_atomically(path, saved(tensors, {**facts, "format": FORMAT}))
    return path


def load_adapter(path: Path | str) -> TextAdapter:
    """Reads what ``efface export --as adapter`` wrote.

    Raises:
        BadDelta: the file is missing, damaged, or something else.
    """
    try:
        with safe_open(Path(path), framework="pt") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise BadDelta(f"{path} is not a text adapter written by efface")
            return TextAdapter(file.get_tensor("left"), file.get_tensor("right"))
    except (SafetensorError, OSError) as error:
        raise BadDelta(f"{path} is missing or damaged ({error}); export it again") from error
