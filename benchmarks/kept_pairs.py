"""What do erasures do to two kept things in one picture, and does it help to keep such prompts?

    python -m benchmarks kept_pairs     writes benchmarks/results/kept_pairs.json

Closed forms erase one thing, and three at once, from the bundled model: with its usual keep set,
which names things one by one, and with prompts of pairs of things added to it. Those pairs are
others than the ones that are drawn here, which are the suite's. Each row has how often everything
that a prompt names is there, by role, before and after. What has a row is not measured again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import torch

import efface
from efface.bundled.suites import GUIDANCE, STEPS, emoji_suite
from efface.bundled.vocabulary import NOUNS, canonical, prompt
from efface.concepts import Concept, ErasureRequest
from efface.contracts import Sample
from efface.evaluation.bench import Bench
from efface.evaluation.drawing import draw
from efface.evaluation.samples import in_role
from efface.files import write_atomically
from efface.runs.erasing import erase
from efface.runs.words import understood

__all__ = ["PAIRS", "keeping_pairs", "run"]

RESULTS = Path(__file__).parent / "results" / "kept_pairs.json"
METHODS = ("uce", "rece", "realera", "trce", "kernel_map")
ERASED = (("pistol",), ("cat", "frog", "owl"))
PAIRS = 120
"""Prompts of pairs that are added to the keep set."""
WORDING = "{a} {noun} and {b} {other}"
_STEP = 31
"""Pairs are taken every so many, so that they span the vocabulary."""
_BATCH = 32


def keeping_pairs(request: ErasureRequest, samples: tuple[Sample, ...]) -> ErasureRequest:
    """Adds prompts of `PAIRS` pairs of kept nouns to what is kept, none of them a drawn pair."""
    gone = {canonical(erasure.concept.name) for erasure in request.erasures}
    drawn = {
        frozenset((sample.concept.name, *(one.name for one in sample.others)))
        for sample in samples
        if sample.concept is not None
    }
    free = [
        pair
        for pair in permutations(NOUNS, 2)
        if not gone & {*pair} and frozenset(pair) not in drawn
    ]
    texts = [prompt(WORDING, first, other=second) for first, second in free[::_STEP][:PAIRS]]
    return replace(request, keep=(*request.keep, Concept(name="pairs", prompts=tuple(texts))))


def samples_of(request: ErasureRequest) -> tuple[Sample, ...]:
    """Picks the pictures of the suite: the short ones, and all compositions."""
    short = emoji_suite(request, size="short").samples
    composed = in_role(emoji_suite(request, size="standard").samples, "composition")
    return (*in_role(short, "erased", "synonym", "neighbour", "kept"), *composed)


def seen(bench: Bench, samples: tuple[Sample, ...]) -> dict[str, list[int]]:
    """Counts by role the pictures in which all is there, and all pictures."""
    threshold, names = bench.judge.card.threshold, list(NOUNS)
    found: dict[str, list[int]] = {}
    for start in range(0, len(samples), _BATCH):
        part = samples[start : start + _BATCH]
        pixels = torch.from_numpy(draw(bench.pipe, part, steps=STEPS, guidance=GUIDANCE).pixels)
        nouns, _ = bench.judge.probabilities(pixels.permute(0, 3, 1, 2) / 255)
        for row, sample in zip(nouns, part, strict=True):
            things = (sample.concept, *sample.others)
            wanted = [names.index(one.name) for one in things if one is not None]
            counts = found.setdefault(sample.role, [0, 0])
            counts[0] += bool((row[wanted] >= threshold).all())
            counts[1] += 1
    return found


def run() -> None:
    """Measures what is missing, one line of output a row."""
    held: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    rows: list[dict[str, Any]] = held.get("rows", [])
    bench, before = Bench("emoji"), {row["erased"]: row["before"] for row in rows}
    for method, names, pairs in _wanted():
        called = " and ".join(names)
        if any((r["method"], r["erased"], r["pairs"]) == (method, called, pairs) for r in rows):
            continue
        request = understood(efface.request(names), "emoji")
        samples = samples_of(request)
        if called not in before:
            before[called] = seen(bench, samples)
        given = keeping_pairs(request, samples) if pairs else request
        made = erase(bench.pipe, given, method=method, preset="emoji")
        with made.delta.apply(bench.pipe):
            after = seen(bench, samples)
        row = {"method": method, "erased": called, "pairs": pairs, "seconds": made.seconds}
        rows.append({**row, "before": before[called], "after": after, "delta": made.delta.id})
        print(f"{method:12} {called:18} {pairs:4} pairs kept  {after}", flush=True)
        told = {"command": "python -m benchmarks kept_pairs", "rows": rows}
        write_atomically(RESULTS, (json.dumps(told, indent=1) + "\n").encode())


def _wanted() -> Iterator[tuple[str, tuple[str, ...], int]]:
    for names in ERASED:
        for method in METHODS:
            yield from ((method, names, pairs) for pairs in (0, PAIRS))
