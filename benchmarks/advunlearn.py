"""Erases nouns from the text encoder by adversarial training, and attacks what is left.

    python -m benchmarks advunlearn           writes results/advunlearn.json
    python -m benchmarks advunlearn_tuning    writes results/advunlearn_tuning.json

One row a method and concept: pictures in which the judge sees the concept by name, by synonym, and
kept nouns; evaluations and processor seconds of the erasure; and what two attacks bring back: the
method's own, a prefix that makes the edited model predict what the unedited one did, and one that
is independent of it (`benchmarks.soft_prompts`). The published loop is run with fewer steps, and
beside it the same on pools. Erased encoders are then put into the other bundled models. What has a
row is not run again; delete it to measure it anew. Candidates of the preset are measured alike, on
two other nouns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import torch

import efface
from benchmarks.soft_prompts import Prefixes, SoftPrompts, pictures_of, visits_of
from efface.bundled import understood
from efface.bundled.judge import EmojiJudge
from efface.bundled.judges import BundledJudge
from efface.bundled.suites import GUIDANCE, STEPS, emoji_suite
from efface.bundled.vocabulary import concept
from efface.contracts import Eraser
from efface.deltas.delta import Delta
from efface.diffusion.trajectories import Pool
from efface.evaluation.drawing import draw
from efface.files import write_atomically
from efface.registry import build
from efface.runs.transfer import transferred

RESULTS = Path(__file__).parent / "results"
CONCEPTS = ("pistol", "castle", "pizza", "guitar")
TUNING = ("axe", "cat")
"""Nouns that the preset is chosen on."""
ELSEWHERE = CONCEPTS[:1]
"""Whose encoders are put into the other models."""
PUBLISHED: dict[str, Any] = {
    "preset": "released-sd14",
    "wordings": "all",
    "target": "prompt_without_concept",
    "sampling_steps": 20,
    "learning_rate": 2e-3,
    "keep_weight": 30.0,
    "steps": 100,
    "warm_up": 20,
}
"""The published loop with a tenth of its steps; step size and what is kept are for this model."""
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "advunlearn": ("advunlearn", {"preset": "emoji"}),
    "esd on the text encoder": ("advunlearn", {"preset": "emoji", "attack_tokens": 0}),
    "esd": ("esd", {"preset": "emoji"}),
    "rece": ("rece", {"preset": "emoji"}),
    "unedited": ("", {}),
}
LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "published loop": ("advunlearn", PUBLISHED),
    "published loop on pools": (
        "advunlearn",
        PUBLISHED | {"latents": "base", "trajectories": 48, "keep_trajectories": 96},
    ),
}
"""For the first concept alone."""


CANDIDATES: tuple[dict[str, Any], ...] = (
    {},
    {"keep_weight": 30.0},
    {"keep_weight": 60.0, "steps": 180},
    {"placements": ("prefix",)},
    {"attack": "fgsm", "attack_rate": 0.04, "attack_radius": 0.04, "attack_init": "random"},
    {"attack_every": 1},
)
"""What the preset is tried with instead."""
Wanted: TypeAlias = Iterable[tuple[str, str, tuple[str, dict[str, Any]]]]
"""Labels, concepts, and methods with their settings."""


def run() -> None:
    """Measures methods of a concept in turn, and what takes long at the end."""
    every = [(label, name, made) for name in CONCEPTS for label, made in METHODS.items()]
    _run("advunlearn", [*every, *((label, CONCEPTS[0], made) for label, made in LOOPS.items())])


def tune() -> None:
    """Measures candidates of the preset, which change some of its settings."""
    made = [("advunlearn", {"preset": "emoji"} | settings) for settings in CANDIDATES]
    labels = [", ".join(f"{key} {value}" for key, value in each.items()) for each in CANDIDATES]
    pairs = [*zip(labels, made, strict=True)]
    _run("advunlearn_tuning", [(label or "preset", n, one) for n in TUNING for label, one in pairs])


def _run(experiment: str, wanted: Wanted) -> None:
    """Measures what has no row yet, one line of output a row."""
    torch.set_num_threads(1)
    path = RESULTS / f"{experiment}.json"
    record: dict[str, Any] = {"command": f"python -m benchmarks {experiment}", "rows": []}
    if path.exists():
        record = json.loads(path.read_text())
    known = {(row["method"], row["concept"]) for row in record["rows"]}
    bench = Bench()
    for label, name, (method, settings) in wanted:
        if (label, name) not in known:
            for row in bench.rows(label, name, method, settings):
                record["rows"].append(row)
                print(row, flush=True)
                write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())


class Bench:
    """The bundled models and their judges; pictures and latents of concepts that were drawn."""

    def __init__(self) -> None:
        self.pipe = _loaded("emoji")
        self.judge = EmojiJudge("emoji")
        self.latents: dict[str, torch.Tensor] = {}
        self.pools: dict[str, Pool] = {}

    def rows(
        self, label: str, name: str, method: str, settings: dict[str, Any], *, seed: int = 0
    ) -> Iterator[dict[str, Any]]:
        """Erases, measures and attacks; then puts an erased encoder into the other models."""
        request = understood(efface.request(name))
        told = {"method": label, "concept": name, "seed": seed}
        if name not in self.latents:
            self.latents[name] = pictures_of(self.pipe, self.judge, concept(name))
            self.pools[name] = visits_of(self.pipe, concept(name))
        if not method:
            yield told | shown(self.pipe, request, self.judge) | self.attacked(name)
            return
        eraser: Eraser[Any] = build("methods", method, **settings)
        started = time.process_time()
        result = efface.erase(self.pipe, request, method=eraser, seed=seed)
        cost = {
            "evaluations": result.diagnostics.get("network_evaluations", 0),
            "processor_seconds": round(time.process_time() - started, 1),
        }
        with result.delta.apply(self.pipe):
            found = shown(self.pipe, request, self.judge) | self.attacked(name)
        yield told | cost | found
        if label == "advunlearn" and name in ELSEWHERE:
            yield from self.elsewhere(told, result.delta, request)

    def attacked(self, name: str) -> dict[str, Any]:
        """Tries to bring a concept back from the pipeline as it is now."""
        known = concept(name)
        shared = {"pipe": self.pipe, "judge": self.judge, "concept": known}
        learned = SoftPrompts(latents=self.latents[name], **shared)
        return {
            "soft_prompt": asdict(learned.run()),
            "prefix": asdict(Prefixes(pool=self.pools[name], **shared).run()),
        }

    def elsewhere(
        self, told: dict[str, Any], delta: Delta, request: efface.ErasureRequest
    ) -> Iterator[dict[str, Any]]:
        """Puts the erased encoder where another model has its own."""
        remix, looks = _loaded("emoji-remix"), EmojiJudge("emoji-remix")
        yield told | {"method": "unedited, emoji-remix"} | shown(remix, request, looks)
        with transferred(delta, remix).apply(remix):
            found = shown(remix, request, looks)
        yield told | {"method": "advunlearn, emoji-remix"} | found
        reader = _loaded("emoji-reader")
        reader.text_encoder = self.pipe.text_encoder
        with delta.apply(reader):
            found = shown(reader, request, self.judge)
        yield told | {"method": "advunlearn, emoji-reader's U-Net"} | found


def shown(pipe: Any, request: efface.ErasureRequest, judge: BundledJudge) -> dict[str, Any]:
    """Counts pictures in which a judge sees the concept that their prompt names, by role."""
    samples = emoji_suite(request, size="sweep").samples
    found = {}
    for role in ("erased", "synonym", "kept"):
        some = [each for each in samples if each.role == role]
        pixels = draw(pipe, some, steps=STEPS, guidance=GUIDANCE).pixels
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        seen = [
            float(judge.presence(image[None], sample.concept)) >= judge.card.threshold
            for image, sample in zip(images, some, strict=True)
            if sample.concept is not None
        ]
        found[role] = {"hits": sum(seen), "of": len(seen)}
    return found


def _loaded(model: str) -> Any:
    pipe = efface.load(model)
    pipe.set_progress_bar_config(disable=True)
    return pipe
