"""A recogniser's answers to labelled pictures, checked before anything is counted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from efface.errors import BadRequest, MeasurementFailed

__all__ = ["Answers", "finite_scores"]


@dataclass(frozen=True, eq=False)
class Answers:
    """Logits of some pictures beside the classes that the pictures show.

    Raises:
        MeasurementFailed: there is no picture, or a logit is not finite.
        BadRequest: logits and labels do not fit each other.
    """

    logits: Float[Tensor, "n classes"]
    labels: Int[Tensor, " n"]

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or self.labels.shape != self.logits.shape[:1]:
            raise BadRequest(
                f"logits of shape {tuple(self.logits.shape)} and labels of shape "
                f"{tuple(self.labels.shape)} do not fit; give (n, classes) and (n,)"
            )
        if not len(self.labels):
            raise MeasurementFailed("there is no picture to measure on; give at least one")
        if self.logits.shape[1] < 2:
            raise BadRequest("the logits have one class; a recogniser tells two or more apart")
        broken = int((~torch.isfinite(self.logits)).any(dim=1).sum())
        if broken:
            raise MeasurementFailed(
                f"{broken} of {len(self.labels)} pictures have logits that are not finite, so "
                "nothing is counted; see what the model computes for them"
            )
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.logits.shape[1]:
            raise BadRequest(
                f"labels run from {low} to {high}, but the logits have "
                f"{self.logits.shape[1]} classes; number the pictures as the head does"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """The number of classes of the head."""
        return int(self.logits.shape[1])

    @property
    def predictions(self) -> Int[Tensor, " n"]:
        """The class with the largest logit; of several the first."""
        return self.logits.argmax(dim=1)

    @property
    def hits(self) -> list[float]:
        """One 1 or 0 per picture: whether the prediction is the label."""
        return (self.predictions == self.labels).double().tolist()

    @property
    def margins(self) -> Float[Tensor, " n"]:
        """Log odds of the true class, ``log(p / (1 - p))``, exact also where p rounds to 1."""
        logits = self.logits.double()
        true = logits.gather(1, self.labels.long()[:, None]).squeeze(1)
        others = logits.scatter(1, self.labels.long()[:, None], -torch.inf)
        return true - others.logsumexp(dim=1)

    def where(self, chosen: Bool[Tensor, " n"]) -> Answers:
        """Keeps some of the pictures.

        Raises:
            MeasurementFailed: none is left.
        """
        return Answers(self.logits[chosen], self.labels[chosen])

    def of(self, numbers: tuple[int, ...]) -> Answers:
        """Keeps the pictures of some classes.

        Raises:
            MeasurementFailed: none is left.
        """
        return self.where(torch.isin(self.labels, torch.tensor(numbers, device=self.labels.device)))


def finite_scores(scores: Tensor, what: str) -> Float[Tensor, " n"]:
    """Gives scores as float64 on the CPU.

    Raises:
        BadRequest: they are not one number per item.
        MeasurementFailed: there is none, or one is not finite.
    """
    if scores.ndim != 1:
        raise BadRequest(f"{what} have shape {tuple(scores.shape)}; give one number per picture")
    if not len(scores):
        raise MeasurementFailed(f"there are no {what}; give at least one")
    kept = scores.detach().to("cpu", torch.float64)
    broken = int((~torch.isfinite(kept)).sum())
    if broken:
        raise MeasurementFailed(f"{broken} of {len(kept)} {what} are not finite; none is counted")
    return kept
