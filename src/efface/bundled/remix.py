"""The second bundled model: the first one fine-tuned onto another domain, kept as low-rank layers.

Its pictures are mirrored, and their lightness is turned over: white grounds are black. What acts on
the first model, such as a membrane, can be tried on it as one tries it on somebody's fine-tune of
Stable Diffusion. It has the same text encoder, so requests and prompts are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from efface.bundled import (
    PRESET,
    keep_concepts,
    pipeline_folder,
    plainly_understood,
    understood,
)
from efface.bundled.layers import add_layers

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = [
    "JUDGE",
    "PRESET",
    "finish",
    "keep_concepts",
    "pipeline_folder",
    "plainly_understood",
    "turned",
    "understood",
]

JUDGE = "emoji-remix"
"""Which bundled judge looks at this model's pictures."""


def turned(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Mirrors pictures of 0 to 1 and turns their lightness over; done twice, nothing changes.

    Lightness is HSL's, half of the largest plus the smallest channel; hue and the distance between
    channels stay.
    """
    mirrored = images.flip(-1)
    return mirrored + 1 - mirrored.amax(1, keepdim=True) - mirrored.amin(1, keepdim=True)


def finish(pipe: Any) -> None:
    """Turns the first bundled model, just loaded, into this one.

    Raises:
        BadModel: the package was installed without its weights.
    """
    add_layers(pipe, "remix")
