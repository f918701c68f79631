"""How far the layout of pictures moved: one minus SSIM, same prompt and same seed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from efface.contracts import Better, Estimate, Instrument
from efface.errors import MeasurementFailed
from efface.metrics.estimates import mean

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["StructureDistance"]


class StructureDistance:
    """One minus the structural similarity of a picture before and after; 0 is no change.

    SSIM (Wang et al., IEEE TIP 13 (2004)) with its usual window and constants, as torchmetrics has
    it. It reads pixels, not features: a kept prompt that still shows its noun, elsewhere or turned
    round, keeps its presence and loses here. Two unrelated pictures are near 1, or above.
    """

    name: ClassVar[str] = "structure_distance"
    unit: ClassVar[str] = "1 - SSIM"
    better: ClassVar[Better] = "lower"
    uses: ClassVar[Instrument] = "pixels"

    def __init__(self, _pixels: None = None) -> None:
        """Takes no instrument."""

    def distance(
        self, images: Float[Tensor, "n 3 h w"], reference: Float[Tensor, "n 3 h w"]
    ) -> Estimate:
        """Averages over pairs; row i of both sets has the same prompt and seed.

        Raises:
            MeasurementFailed: the sets are not of one size, or a distance is not finite.
        """
        from torchmetrics.functional.image import structural_similarity_index_measure as ssim

        if images.shape != reference.shape:
            raise MeasurementFailed(
                f"pictures of shape {tuple(images.shape)} cannot be paired with "
                f"{tuple(reference.shape)}; give the same prompts and seeds in the same order"
            )
        # Picture by picture: at 512 pixels the windows of a whole suite would need gigabytes.
        alike = [
            float(ssim(one[None].double(), other[None].double(), data_range=1.0))
            for one, other in zip(images, reference, strict=True)
        ]
        if not all(map(math.isfinite, alike)):
            raise MeasurementFailed("a structural similarity is not finite, so none is given")
        return mean([1 - each for each in alike])
