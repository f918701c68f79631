"""Kernel distance between two sets of pictures (KID's estimator on the features at hand)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch
from scipy import stats
from torch import Tensor

from efface.contracts import Better, Estimate, Instrument
from efface.errors import MeasurementFailed

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Kid", "polynomial_kernel", "squared_mmd", "squared_mmd_of_pairs"]


class Kid:
    """Squared maximum mean discrepancy with KID's cubic kernel, for pictures in pairs.

    Row i of both sets has the same prompt and seed. Such sets are not independent, and KID's
    usual estimator is then biased below zero by its matching pairs; this one leaves them out
    (Gretton et al., JMLR 13 (2012), lemma 6, the U-statistic over pairs), so an unchanged model
    measures exactly 0. The interval is a jackknife over pairs. Figures depend on the features
    and are not comparable with KID on Inception features.
    """

    name: ClassVar[str] = "kid"
    unit: ClassVar[str] = "squared MMD"
    better: ClassVar[Better] = "lower"
    uses: ClassVar[Instrument] = "features"

    def __init__(self, features: Callable[[Tensor], Tensor]) -> None:
        self._features = features

    def distance(
        self, images: Float[Tensor, "n 3 h w"], reference: Float[Tensor, "n 3 h w"]
    ) -> Estimate:
        """Measures how far the pictures' distribution moved.

        Raises:
            MeasurementFailed: sets of different sizes, fewer than three pairs, or a value that is
                not finite.
        """
        if len(images) != len(reference) or len(images) < 3:
            raise MeasurementFailed(
                f"kid needs at least three pairs of pictures with the same prompts and seeds; "
                f"there are {len(images)} and {len(reference)}"
            )
        estimate = squared_mmd_of_pairs(self._features(images), self._features(reference))
        if not math.isfinite(estimate.value):
            raise MeasurementFailed("the kernel distance is not finite, so none is given")
        return estimate


def polynomial_kernel(
    first: Float[Tensor, "n dim"], second: Float[Tensor, "m dim"]
) -> Float[Tensor, "n m"]:
    """Gives KID's kernel (x . y / dim + 1)^3 in float64 (Binkowski et al., ICLR 2018)."""
    return (first.double() @ second.double().T / first.shape[1] + 1) ** 3


def squared_mmd(first: Float[Tensor, "n dim"], second: Float[Tensor, "m dim"]) -> float:
    """Estimates the squared discrepancy of two independent sets without bias; may be negative."""
    within = _mean_without_diagonal(polynomial_kernel(first, first))
    within += _mean_without_diagonal(polynomial_kernel(second, second))
    return within - 2 * float(polynomial_kernel(first, second).mean())


def squared_mmd_of_pairs(first: Float[Tensor, "n dim"], second: Float[Tensor, "n dim"]) -> Estimate:
    """Estimates the squared discrepancy of two sets whose rows belong together.

    The interval is t with a delete-one jackknife; a U-statistic's jackknife is conservative.
    """
    crossed = polynomial_kernel(first, second)
    terms = polynomial_kernel(first, first) + polynomial_kernel(second, second)
    terms = terms - crossed - crossed.T
    terms.fill_diagonal_(0)
    count = len(terms)
    total = terms.sum()
    without_one = (total - 2 * terms.sum(dim=1)) / ((count - 1) * (count - 2))
    spread = (without_one - without_one.mean()).square().sum() * (count - 1) / count
    half = float(spread.sqrt()) * float(stats.t.ppf(0.975, count - 1))
    value = float(total / (count * (count - 1)))
    return Estimate(value, value - half, value + half, count)


def _mean_without_diagonal(kernel: Float[Tensor, "n n"]) -> float:
    count = len(kernel)
    return float((kernel.sum() - torch.diagonal(kernel).sum()) / (count * (count - 1)))
