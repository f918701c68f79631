"""Attacks what advunlearn, ESD and RECE leave, at the budget of `efface attack`.

    python -m benchmarks advunlearn_attacks     writes results/advunlearn_attacks.json

One row a concept, method and attack: trials that the attack brought back, of those that were safe
before; its verdict, by its tests of itself on the unedited model and for a made-up name. The three
attacks are those that search prompts with gradients. Other settings of advunlearn meet the soft
prompt alone, which brings back most after its preset. What has a row is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

import efface
from benchmarks.advunlearn import CONCEPTS, METHODS, shown
from efface.contracts import Estimate
from efface.evaluation.attacking import Assault, attacked
from efface.evaluation.bench import Bench
from efface.evaluation.revival import AttackRecord, SelfTest, counted
from efface.evaluation.self_tests import as_known, as_unknown, run_attack, tests_of
from efface.files import write_atomically
from efface.registry import build

FILE = Path(__file__).parent / "results" / "advunlearn_attacks.json"
ATTACKS = ("unlearn_diff_atk", "hard_prompt", "soft_prompt")
ERASED = tuple(label for label in METHODS if label != "unedited")
OTHERS: dict[str, dict[str, Any]] = {
    "advunlearn, longer and kept more": {"keep_weight": 60.0, "steps": 180},
    "advunlearn, two attackers in the name's place": {
        "placements": ("prefix", "replace", "replace"),
        "attack_steps": 8,
        "attack_batch": 9,
        "steps": 180,
    },
}
"""What the preset is tried with instead."""
WANTED = [*product(ERASED, ATTACKS), *((label, "soft_prompt") for label in OTHERS)]
TRIALS = 8


def run() -> None:
    """Measures what has no row yet, a method's attacks in turn."""
    torch.set_num_threads(1)
    record: dict[str, Any] = {"command": "python -m benchmarks advunlearn_attacks", "rows": []}
    if FILE.exists():
        record = json.loads(FILE.read_text("utf-8"))
    bench = Bench("emoji")
    for name in CONCEPTS:
        held = {(row["method"], row["attack"]) for row in record["rows"] if row["concept"] == name}
        left = [pair for pair in WANTED if pair not in held]
        tests = {attack: _tests(bench, name, attack) for attack in {attack for _, attack in left}}
        for label in dict.fromkeys(label for label, _ in left):
            own = {attack: tests[attack] for other, attack in left if other == label}
            for row in _rows(bench, name, label, own):
                record["rows"].append(row)
                print(row, flush=True)
                write_atomically(FILE, (json.dumps(record, indent=1) + "\n").encode())


def _rows(
    bench: Bench, name: str, label: str, tests: dict[str, tuple[SelfTest, ...]]
) -> Iterator[dict[str, Any]]:
    method, settings = METHODS.get(label, METHODS["advunlearn"])
    eraser: Any = build("methods", method, **settings | OTHERS.get(label, {}))
    delta = efface.erase(bench.pipe, bench.request(name), method=eraser, seed=0).delta
    beside: dict[str, Any] = {}
    if label in OTHERS:
        with delta.apply(bench.pipe):
            beside = {"shown": shown(bench.pipe, bench.request(name), bench.judge)}
    for attack in tests:
        assault = replace(_assault(bench, name, attack), delta=delta)
        told = _told(run_attack(assault, self_tests=tests[attack]).record)
        yield {"concept": name, "method": label, "attack": attack, **told, **beside}


def _tests(bench: Bench, name: str, attack: str) -> tuple[SelfTest, ...]:
    """Runs an attack where its outcome is known, once for all methods."""
    assault = _assault(bench, name, attack)
    known, unknown = (attacked(made(assault)).record for made in (as_known, as_unknown))
    return tests_of(known, unknown, needs_name=assault.attack.needs_name)


def _assault(bench: Bench, name: str, attack: str) -> Assault:
    suite = bench.suite(name)
    return Assault(
        model=bench.pipe,
        delta=None,
        concept=bench.concept(name),
        trials=bench.trials(name, TRIALS),
        attack=build("attacks", attack),
        judge=bench.judge,
        second=bench.second,
        steps=suite.steps,
        guidance=suite.guidance,
        others=bench.others(name),
        wordings=bench.wordings(name),
        shared=bench.shared,
    )


def _told(record: AttackRecord) -> dict[str, Any]:
    found = counted(record.trials)
    return {
        "verdict": record.verdict,
        "reasons": list(record.reasons),
        "shown_before": _hits(found.pre_asr),
        "brought_back": _hits(found.failure_rate),
        "second_agrees": _hits(found.agreed),
        "tests": {one.name: _hits(one.estimate) for one in record.self_tests},
        "evaluations_a_trial": round(sum(one.spent for one in record.trials) / TRIALS),
        "seconds": round(record.seconds, 1),
    }


def _hits(estimate: Estimate | None) -> list[int] | None:
    return None if estimate is None else [int(estimate.hits or 0), estimate.count]
