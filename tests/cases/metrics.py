"""Cases of metrics, with instruments that like what is bright."""

import torch

from efface.contracts import JudgeCard
from efface.metrics.estimates import UNKNOWN
from tests.cases.kinds import MetricCase


class BrightJudge:
    """Takes brightness for the probability of anything; has no answer where it is not a number."""

    card = JudgeCard("bright", "1", 0.5, UNKNOWN, UNKNOWN)

    def knows(self, concept):
        return True

    def presence(self, images, concept):
        return images.mean(dim=(1, 2, 3))


class BrightClip:
    """Puts every text where a white picture is."""

    def image_features(self, images):
        bright = images.mean(dim=(1, 2, 3))
        return torch.stack([bright, 1 - bright], dim=1)

    def text_features(self, texts):
        return torch.tensor([[1.0, 0.0]]).repeat(len(texts), 1)


def pooled(images):
    """Gives colours of a coarse grid, around zero."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1) - 0.5


INSTRUMENTS = {
    "judge": BrightJudge(),
    "leftover": BrightJudge(),
    "clip": BrightClip(),
    "features": pooled,
    "pixels": None,
}
"""By what a metric ``uses``."""


def brighter(images):
    """Moves pictures towards white."""
    return 1 - 0.2 * (1 - images)


def darker(images):
    """Moves pictures towards black."""
    return 0.2 * images


def nearly_same(images):
    """Changes pictures a little."""
    return (images + 0.01).clamp(0, 1)


CASES = (
    *(
        MetricCase(metric=name, better=brighter, worse=darker)
        for name in ("clip_score", "leftover", "presence", "style_presence")
    ),
    *(
        MetricCase(metric=name, better=nearly_same, worse=darker)
        for name in ("feature_distance", "kid", "structure_distance")
    ),
)
