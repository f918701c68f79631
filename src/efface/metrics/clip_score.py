"""Agreement of picture and prompt: 100 times the cosine of their CLIP vectors, at least 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch.nn import functional

from efface.contracts import Better, Instrument, Sample

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["Clip", "ClipScore"]


class Clip(Protocol):
    """Anything that puts pictures and texts into one space."""

    def image_features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n dim"]:
        """Encodes pixels of 0 to 1."""

    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "n dim"]:
        """Encodes texts."""


class ClipScore:
    """CLIPScore (Hessel et al., EMNLP 2021) with weight 100 instead of 2.5, as is usual now.

    Figures of different CLIP models must not be compared.
    """

    name: ClassVar[str] = "clip_score"
    unit: ClassVar[str] = "100 x cosine"
    better: ClassVar[Better] = "higher"
    uses: ClassVar[Instrument] = "clip"
    reverses: ClassVar[bool] = True
    threshold: float | None = None

    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def applies(self, sample: Sample) -> bool:
        """Says whether there is a prompt to agree with."""
        return bool(sample.prompt.strip())

    def scores(
        self, images: Float[Tensor, "n 3 h w"], samples: Sequence[Sample]
    ) -> Float[Tensor, " n"]:
        """Scores each picture against its own prompt."""
        pictures = self._clip.image_features(images)
        texts = self._clip.text_features([sample.prompt for sample in samples])
        return 100 * functional.cosine_similarity(pictures, texts, dim=-1).clamp(min=0)
