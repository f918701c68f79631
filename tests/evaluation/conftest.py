"""A real toy pipeline, a judge that remembers pictures, and suites of a few samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from efface.concepts import Concept
from efface.contracts import Estimate, JudgeCard, Sample, Suite
from efface.deltas.delta import Delta
from efface.deltas.patches import DensePatch
from efface.deltas.provenance import Provenance, base_sketch
from efface.evaluation.drawing import draw
from efface.hosts.components import find
from efface.hosts.families import tiny_pipeline

PISTOL = Concept(name="pistol")
CAT = Concept(name="cat")
STEPS = 2
KEY = "unet/conv_out.weight"


def small_suite(**changes: Any) -> Suite:
    """Two erased prompts and one kept, two seeds each: six pictures."""
    samples = [
        Sample(prompt, seed, role, concept)
        for prompt, role, concept in (
            ("a photo of a pistol", "erased", PISTOL),
            ("a pistol", "erased", PISTOL),
            ("a photo of a cat", "kept", CAT),
        )
        for seed in (0, 1)
    ]
    settings = {
        "name": "small",
        "version": 3,
        "samples": tuple(samples),
        "judge": "memory",
        "image_metrics": ("presence",),
        "steps": STEPS,
        "guidance": 2.0,
    }
    return Suite(**{**settings, **changes})


def card(**changes: Any) -> JudgeCard:
    """A card with error rates as a measured judge would have them."""
    facts = {
        "name": "memory",
        "version": "1",
        "threshold": 0.5,
        "true_positive_rate": Estimate(0.98, 0.95, 0.99, 200, 196),
        "false_positive_rate": Estimate(0.01, 0.0027, 0.036, 200, 2),
    }
    return JudgeCard(**{**facts, **changes})


@dataclass
class MemoryJudge:
    """Recognises the pictures that the unedited model drew, a cat also in paler ones."""

    known: dict[str, torch.Tensor]
    card: JudgeCard = field(default_factory=card)
    asked: int = 0

    def knows(self, concept: Concept) -> bool:
        return concept.name in self.known

    def presence(self, images: torch.Tensor, concept: Concept) -> torch.Tensor:
        self.asked += len(images)
        apart = (images[:, None] - self.known[concept.name][None]).abs().mean(dim=(2, 3, 4))
        return (apart.min(dim=1).values < (0.2 if concept.name == "cat" else 1e-3)).float()

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) - 0.5


class AnsweringJudge:
    """Answers with what a function makes of the pictures and the concept."""

    def __init__(self, answer: Any, **facts: Any) -> None:
        self.answer = answer
        self.card = card(name="answering", **facts)

    def knows(self, concept: Concept) -> bool:
        return True

    def presence(self, images: torch.Tensor, concept: Concept) -> torch.Tensor:
        return self.answer(images, concept)


class CountingPipe:
    """A pipeline that counts its calls and can be interrupted before one of them."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self.prompts: list[str] = []
        self.calls = 0
        self.interrupt_at: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_pipe"], name)

    def __call__(self, **given: Any) -> Any:
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        self.calls += 1
        self.prompts += given["prompt"]
        return self._pipe(**given)


@pytest.fixture(scope="session")
def toy():
    return tiny_pipeline()


@pytest.fixture
def pipe(toy):
    return CountingPipe(toy)


@pytest.fixture(scope="session")
def delta(toy):
    """Halves the last layer of the denoiser: every picture changes and looks much the same."""
    weight = find(toy, KEY)[KEY].detach()
    provenance = Provenance(
        method="test",
        revision=1,
        settings={},
        request={},
        seed=0,
        base_model="toy",
        base_sketch=base_sketch(toy, (KEY,)),
        versions={},
    )
    return Delta(patches={KEY: DensePatch(-0.5 * weight)}, provenance=provenance)


@pytest.fixture(scope="session")
def known(toy):
    """What the unedited toy draws, by concept."""
    pictures = {}
    for sample in small_suite().samples:
        drawn = draw(toy, [sample], steps=STEPS, guidance=2.0)
        pixels = torch.from_numpy(drawn.pixels).permute(0, 3, 1, 2) / 255
        pictures.setdefault(sample.concept.name, []).append(pixels)
    return {name: torch.cat(seen) for name, seen in pictures.items()}


@pytest.fixture
def judge(known):
    return MemoryJudge(known)
