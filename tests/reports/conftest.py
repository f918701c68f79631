"""An evaluation with pictures on disk, made by hand so that every figure is known."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from efface.concepts import Concept, described, request
from efface.contracts import Estimate, JudgeCard, Sample
from efface.evaluation.identity import TensorChange
from efface.evaluation.images import ImageStore, Source
from efface.evaluation.record import Control, Cost, Evaluation, Measurement
from efface.metrics.estimates import UNKNOWN, compare_rates, rate
from efface.runs.words import understood

PISTOL = Concept(name="pistol", synonyms=("revolver",))
STYLE = Concept(name="blueprint", kind="style")
_PROMPTS = {
    "erased": ("a blueprint emoji of a pistol", PISTOL),
    "synonym": ("a blueprint emoji of a revolver", PISTOL),
    "neighbour": ("a blueprint emoji of a sword", Concept(name="sword")),
    "kept": ("a blueprint emoji of a cat", Concept(name="cat")),
    "general": ("an umbrella and a boat", None),
}
_HITS = {"erased": (31, 0), "synonym": (29, 2), "neighbour": (30, 29), "kept": (31, 31)}


def samples(count: int = 8) -> tuple[Sample, ...]:
    return tuple(
        Sample(prompt, seed, role, concept, STYLE if role == "kept" else None)
        for role, (prompt, concept) in _PROMPTS.items()
        for seed in range(count)
    )


def measurement(role: str, before: int, after: int, count: int = 32) -> Measurement:
    """Presence with ``before`` and ``after`` hits of ``count``, the hits first."""
    first = [1.0] * before + [0.0] * (count - before)
    second = [1.0] * after + [0.0] * (count - after)
    found = compare_rates(first, second)
    return Measurement(
        metric="presence",
        unit="rate",
        better="lower" if role in ("erased", "synonym") else "higher",
        role=role,
        before=rate(first),
        after=rate(second),
        change=found.difference,
        p_value=found.p_value,
    )


def _others() -> tuple[Measurement, ...]:
    clip = {
        "erased": (Estimate(28.1, 27.5, 28.7, 32), Estimate(19.2, 18.1, 20.3, 32)),
        "kept": (Estimate(29.0, 28.2, 29.8, 32), Estimate(28.8, 28.1, 29.5, 32)),
    }
    scores = tuple(
        Measurement(
            metric="clip_score",
            unit="100 x cosine",
            better="lower" if role == "erased" else "higher",
            role=role,
            before=before,
            after=after,
            change=Estimate(after.value - before.value, -1.0, 1.0, 32),
            p_value=0.4 if role == "kept" else 1e-9,
        )
        for role, (before, after) in clip.items()
    )
    distance = Measurement(
        metric="feature_distance",
        unit="1 - cosine",
        better="lower",
        role="kept",
        change=Estimate(0.031, 0.022, 0.04, 32),
    )
    return (*scores, distance)


def _control(name: str, hits: int, count: int) -> Control:
    estimate = rate([1.0] * hits + [0.0] * (count - hits))
    return Control(
        name=name, concept="pistol", passed=True, estimate=estimate, requirement="it had to hold"
    )


def _draw(path: Path, sample: Sample, *, gone: bool) -> None:
    image = Image.new("RGB", (64, 64), "white")
    pen = ImageDraw.Draw(image)
    colour = f"hsl({(sum(sample.role.encode()) + 37 * sample.seed) % 360}, 60%, 50%)"
    box = (12, 12, 52, 52)
    (pen.ellipse if gone else pen.rectangle)(box, fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def made(folder: Path, **changes) -> Evaluation:
    """A valid evaluation: pistol 31 of 32 before, 0 of 32 after."""
    before = Source("0123456789abcdef", None, 20, 4.0)
    after = Source("0123456789abcdef", "fedcba9876543210", 20, 4.0)
    store = ImageStore(folder / "pictures")
    drawn = samples()
    for sample in drawn:
        _draw(store.path(before, sample), sample, gone=False)
        _draw(store.path(after, sample), sample, gone=sample.role in ("erased", "synonym"))
    hashes = [hashlib.sha256(bytes([number])).hexdigest() for number in range(8)]
    facts = {
        "suite": "emoji-standard@1",
        "judge": JudgeCard("emoji-judge", "1", 0.5, Estimate(0.98, 0.96, 0.99, 400, 392), UNKNOWN),
        "verdict": "valid",
        "measurements": (*(measurement(role, *pair) for role, pair in _HITS.items()), *_others()),
        "controls": (_control("positive", 31, 32), _control("negative", 0, 64)),
        "costs": {
            name: Cost(
                pictures=160, seconds=101.5, network_evaluations=6400, peak_bytes=950_000_000
            )
            for name in ("before", "after")
        },
        "changed": tuple(
            TensorChange(f"unet/down_blocks.{n}.attn2.to_k.weight", 16384, hashes[n], hashes[n + 4])
            for n in range(4)
        ),
        "samples": drawn,
        "before": before,
        "after": after,
        "provenance": provenance(),
        "instruments": {"judge": "emoji-judge@1", "clip": "EmojiClip"},
        "store": store.folder,
        "created": "2026-01-02T03:04:05+00:00",
        "versions": {"torch": "2.13.0", "commit": ""},
    }
    return Evaluation(**{**facts, **changes})


def provenance(name: str = "pistol") -> dict:
    return {
        "method": "rece",
        "settings": {"rounds": 5, "ridge": 0.1},
        "settings_given": ["rounds"],
        "seed": 7,
        "base_model": "emoji",
        "parents": [],
        "request": described(understood(request(name, keep=["cat", "sword"]), "emoji")),
    }


@pytest.fixture
def evaluation(tmp_path):
    return made(tmp_path)


RUN = {
    "seconds": 1.6,
    "peak_bytes": 812_000_000,
    "curves": {
        "returning": (3.0, 1.4, 0.6, 0.31, 0.2),
        "gram condition": (10.0, 11.0, 11.5, 12.0, 12.0),
    },
    "diagnostics": {"condition": 120.5},
}
