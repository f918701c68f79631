"""How far pictures moved: mean cosine distance of features, same prompt and same seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.nn import functional

from efface.contracts import Better, Estimate, Instrument
from efface.errors import MeasurementFailed
from efface.metrics.estimates import mean

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["FeatureDistance"]


class FeatureDistance:
    """One minus the cosine between a picture's features before and after; 0 is no change.

    Plays the part of LPIPS with the features at hand: a small distance on kept prompts says that
    the same seed still gives the same picture, which presence alone does not see.
    """

    name: ClassVar[str] = "feature_distance"
    unit: ClassVar[str] = "1 - cosine"
    better: ClassVar[Better] = "lower"
    uses: ClassVar[Instrument] = "features"

    def __init__(self, features: Callable[[Tensor], Tensor]) -> None:
        self._features = features

    def distance(
        self, images: Float[Tensor, "n 3 h w"], reference: Float[Tensor, "n 3 h w"]
    ) -> Estimate:
        """Averages over pairs; row i of both sets has the same prompt and seed.

        Raises:
            MeasurementFailed: the sets are not of one size, or a feature is not finite.
        """
        if len(images) != len(reference):
            raise MeasurementFailed(
                f"{len(images)} pictures cannot be paired with {len(reference)}; "
                "give the same prompts and seeds in the same order"
            )
        after, before = self._features(images).double(), self._features(reference).double()
        apart = 1 - functional.cosine_similarity(after, before, dim=-1)
        if not apart.isfinite().all():
            raise MeasurementFailed("a feature distance is not finite, so none is given")
        return mean(apart.clamp(min=0).tolist())
