"""A toy regression that the training loop's tests train."""

from dataclasses import dataclass

import torch
from torch import nn

from efface.deltas.recording import Recording
from efface.training.loop import train
from efface.training.settings import Training
from tests.conftest import host

GOAL = torch.tensor([1.0, -2.0, 3.0, 0.5])


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    """The loop's own settings with toy values."""

    steps: int = 30
    learning_rate: float = 0.05


def losses(weight):
    """Noisy regression with two terms."""

    def terms(generator):
        noise = torch.randn(4, generator=generator)
        return {
            "near": ((weight - GOAL + 0.1 * noise) ** 2).mean(),
            "small": 1e-3 * weight.square().mean(),
        }

    return terms


def ran(settings, *, weight=None, terms=None, **options):
    weight = nn.Parameter(torch.zeros(4)) if weight is None else weight
    rows = []
    recording = Recording(
        host("tiny_sd1"),
        generator=torch.Generator(),
        monitor=lambda step, _, figures: rows.append((step, dict(figures))),
        steps=settings.steps,
    )
    train(
        terms or losses(weight),
        {"model/weight": weight},
        settings,
        generator=torch.Generator().manual_seed(3),
        recording=recording,
        **options,
    )
    return weight.detach(), rows
