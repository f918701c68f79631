"""Random words around a concept's name: do they shut SPM's membranes and bring the concept back?

    python -m benchmarks gate     writes benchmarks/results/gate.json

The same membranes are drawn with two gates: one that the whole prompt opens, as in the paper, and
one that its closest part opens as well (``opens_by``, on in the bundled model's preset). Random
tokens of the tokenizer's vocabulary, 1 to 5, stand before a prompt, after it, or around it; half of
the prompts are the suite's, half the bare name. Of prefixes, ten are tried at each of four seeds,
so that ``searched`` says at how many seeds the best of ten brings the concept back. Kept prompts
are drawn as they are and with such a prefix. The gate was made on guitar, castle, dog and apple.
Before that, gates alone are asked how many of 100 prompts of each kind leave them shut, which needs
no training and no pictures. What has a row is not measured again; delete the file to measure anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import efface
from efface.bundled import understood
from efface.bundled.judge import EmojiJudge
from efface.bundled.suites import GUIDANCE, STEPS, emoji_suite
from efface.bundled.vocabulary import concept
from efface.concepts import wordings
from efface.contracts import Sample
from efface.deltas.gates import PromptGate
from efface.diffusion.denoising import Denoiser
from efface.errors import BadRequest
from efface.evaluation.drawing import draw
from efface.files import write_atomically
from efface.randomness import derive
from efface.runs.gating import GateRule, gate_for
from efface.runs.gradient_eraser import worded

__all__ = ["run"]

RESULTS = Path(__file__).parent / "results" / "gate.json"
CONCEPTS, SEEDS = ("pistol", "axe", "cat", "pizza"), (0, 1)
PREFIXES, PICTURE_SEEDS, AROUND, OPENINGS, BATCH = 10, 4, 20, 100, 32


class Bench:
    """The bundled model, its judge, and random text of its tokenizer."""

    def __init__(self) -> None:
        self.pipe = efface.load("emoji")
        self.judge = EmojiJudge()
        self.text = Denoiser(self.pipe).text

    def tokens(self, count: int, generator: torch.Generator) -> str:
        """Draws tokens at random and writes them out."""
        special = set(self.pipe.tokenizer.all_special_ids)
        every = [n for n in range(len(self.pipe.tokenizer)) if n not in special]
        which = torch.randint(len(every), (count,), generator=generator).tolist()
        return str(self.pipe.tokenizer.decode([every[n] for n in which]))

    def around(self, prompt: str, place: str, number: int, generator: torch.Generator) -> str:
        """Puts random tokens before a prompt, after it, or on both sides, until it fits."""
        while True:
            count = 1 + number % 5
            parts = [prompt]
            if place in ("prefix", "both"):
                parts.insert(0, self.tokens(count, generator))
            if place in ("suffix", "both"):
                parts.append(self.tokens(1 + number // 5 % 5, generator))
            text = " ".join(parts)
            try:
                self.text.tokenised(text)
            except BadRequest:
                continue
            return text

    def drawn(self, samples: Sequence[Sample]) -> np.ndarray[Any, Any]:
        """Draws samples with what is applied, as the suite's pictures are drawn."""
        parts = [samples[n : n + BATCH] for n in range(0, len(samples), BATCH)]
        pictures = [draw(self.pipe, part, steps=STEPS, guidance=GUIDANCE).pixels for part in parts]
        return np.concatenate(pictures)

    def shown(self, pixels: np.ndarray[Any, Any], samples: Sequence[Sample]) -> list[bool]:
        """Says which pictures show their concept."""
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        pairs = zip(images, samples, strict=True)
        found = [float(self.judge.presence(one[None], each.concept)) for one, each in pairs]
        return [value >= self.judge.card.threshold for value in found]


def sets(bench: Bench, name: str) -> dict[str, list[Sample]]:
    """Lists what is drawn of one concept, the same for all runs."""
    suite = emoji_suite(understood(efface.request(name)), size="benchmark")
    own = [sample for sample in suite.samples if sample.role == "erased"]
    kept = [sample for sample in suite.samples if sample.role == "kept"]
    found: dict[str, list[Sample]] = {"plain": own}
    for place in ("prefix", "suffix", "both"):
        generator = derive(0, "gate", name, place)
        count = PREFIXES * PICTURE_SEEDS if place == "prefix" else AROUND
        found[place] = [
            Sample(
                bench.around(own[n % len(own)].prompt if n % 2 else name, place, n, generator),
                1000 + n // PREFIXES if place == "prefix" else n,
                "erased",
                concept(name),
            )
            for n in range(count)
        ]
    generator = derive(0, "gate", name, "kept")
    found["kept"] = kept
    found["kept_prefix"] = [
        replace(sample, prompt=bench.around(sample.prompt, "prefix", n, generator))
        for n, sample in enumerate(kept)
    ]
    return found


def run() -> None:
    """Measures what is missing, one line of output a row."""
    torch.set_num_threads(1)
    record: dict[str, list[dict[str, Any]]] = {"openings": [], "pictures": []}
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text())
    bench = Bench()
    for which, measure in (("openings", opened), ("pictures", measured)):
        for seed, name in product(SEEDS, CONCEPTS):
            rows = record[which]
            if any((row["concept"], row["seed"]) == (name, seed) for row in rows):
                continue
            rows.append(measure(bench, name, seed))
            write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())
            print(json.dumps(rows[-1]), flush=True)


def opened(bench: Bench, name: str, seed: int) -> dict[str, Any]:
    """Makes both gates and counts prompts that leave them less than half open, or open at all."""
    request, denoiser = understood(efface.request(name)), Denoiser(bench.pipe)
    words = [*worded(request.erasures[0], "prompt_without_concept")]
    owners = torch.zeros(len(words), dtype=torch.long)
    rule = GateRule(calibrated=True, opens_by="closest_part")
    draws = derive(seed, "gate")
    part = gate_for(denoiser, words, owners, request.keep, rule=rule, generator=draws)
    assert isinstance(part, PromptGate)
    suite = emoji_suite(request, size="benchmark").samples
    row: dict[str, Any] = {"concept": name, "seed": seed, "command": "python -m benchmarks gate"}
    for role, places in (("erased", ("prefix", "suffix", "both")), ("kept", ("", "prefix"))):
        texts = [sample.prompt for sample in suite if sample.role == role]
        for place in places:
            generator = derive(0, "gate openings", name, role, place)
            asked = [
                bench.around(
                    name if role == "erased" and n % 2 else texts[n % len(texts)],
                    place,
                    n,
                    generator,
                )
                for n in range(OPENINGS)
            ]
            rows = denoiser.host.encode(asked).rows.float()
            for how, gate in (("whole_prompt", replace(part, part=None)), ("closest_part", part)):
                found = gate.openings(rows)[:, 0]
                count = (found < 0.5) if role == "erased" else (found > 0)
                word = "shut" if role == "erased" else "open"
                row[f"{role} {place or 'plain'} {word} {how}"] = f"{int(count.sum())} of {OPENINGS}"
    return row


def measured(bench: Bench, name: str, seed: int) -> dict[str, Any]:
    """Erases a concept once and draws it with both gates."""
    request = understood(efface.request(name))
    result = efface.erase(bench.pipe, request, method="spm", seed=seed)
    gate = result.delta.gate
    assert isinstance(gate, PromptGate)
    asked = sets(bench, name)
    base = {which: bench.drawn(samples) for which, samples in asked.items()}
    row: dict[str, Any] = {
        "concept": name,
        "seed": seed,
        "pictures": {which: len(samples) for which, samples in asked.items()},
        "unedited": _tallies(bench, asked, base, base),
        "erase_seconds": round(result.seconds, 1),
        "gate_seconds": round(result.diagnostics["gate_seconds"], 1),
        "command": "python -m benchmarks gate",
    }
    for how, used in (("whole_prompt", replace(gate, part=None)), ("closest_part", gate)):
        with replace(result.delta, gate=used).apply(bench.pipe):
            found = {which: bench.drawn(samples) for which, samples in asked.items()}
        row[how] = _tallies(bench, asked, found, base) | {
            "kept_prompts_open": _kept_open(bench, used, request),
            "microseconds_a_prompt": _cost(bench, used),
        }
    return row


def _tallies(
    bench: Bench,
    asked: dict[str, list[Sample]],
    found: dict[str, np.ndarray[Any, Any]],
    base: dict[str, np.ndarray[Any, Any]],
) -> dict[str, Any]:
    """Counts pictures that show their concept, seeds where a prefix did, and unchanged pictures."""
    shown = {which: bench.shown(found[which], samples) for which, samples in asked.items()}
    told: dict[str, Any] = {f"{which}_shown": sum(each) for which, each in shown.items()}
    seeds = [shown["prefix"][n : n + PREFIXES] for n in range(0, len(shown["prefix"]), PREFIXES)]
    told["searched"] = sum(map(any, seeds))
    for which in ("kept", "kept_prefix"):
        pairs = zip(found[which], base[which], strict=True)
        told[f"{which}_unchanged"] = sum(bool(np.array_equal(*pair)) for pair in pairs)
    return told


def _kept_open(bench: Bench, gate: PromptGate, request: efface.ErasureRequest) -> str:
    """Says how many of the keep set's prompts open a membrane at all."""
    texts = [text for kept in request.keep for text in wordings(kept)]
    opened = gate.openings(Denoiser(bench.pipe).conditions(texts).rows.float()).amax(dim=1) > 0
    return f"{int(opened.sum())} of {len(texts)}"


def _cost(bench: Bench, gate: PromptGate) -> int:
    """Times the gate on one guided prompt; it runs once a denoising step."""
    rows = Denoiser(bench.pipe).conditions(["", "an emoji of a fish"]).rows
    began = time.perf_counter()
    for _ in range(200):
        gate.openings(rows)
    return round((time.perf_counter() - began) / 200 * 1e6)
