"""Do all named things appear? A-STAR and Attend-and-Excite against plain sampling, same seeds.

    python -m benchmarks composition                       every bundled model that draws several
    python -m benchmarks.composition emoji --prompts 8 --seeds 2 [--tune] [--sheet FILE.png]

writes benchmarks/results/composition.json: for each model, kind of prompts and way one row with
how often all of the things appear, paired with plain sampling at the same prompts and seeds,
intervals widened by prompt; how well what the judge sees fits what was asked (shared nouns as a
share of all named or seen); network evaluations, operations in shares of plain sampling's
(convolutions and products of matrices, forward and backward, counted on one picture), and seconds.
``--tune`` draws other prompts, which are never measured, with the settings of `grid`, and writes
what each gives. A thing is there where the bundled judge of the model says so at its card's
threshold. What has a row is not measured again; delete the row to measure anew.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import efface
from efface import registry
from efface.bundled.judge import EmojiJudge
from efface.bundled.suites import GUIDANCE, STEPS
from efface.bundled.vocabulary import NOUNS, STYLES, TEMPLATES, TWO_OBJECT, prompt
from efface.contracts import Guide
from efface.files import write_atomically
from efface.guiding.drawing import Guided, draw
from efface.metrics.estimates import compare_rates, mean, rate

__all__ = ["run"]

RESULTS = Path(__file__).parent / "results" / "composition.json"
MODELS = ("emoji", "emoji-scenes")
SCENES = "efface.bundled.scene_prompts"
"""The prompts of the model of scenes, where that model is there."""


@dataclass(frozen=True)
class Wanted:
    """A prompt, and the nouns that must be in a picture of it, as the prompt says them."""

    prompt: str
    nouns: tuple[str, ...]


@dataclass(frozen=True)
class Way:
    """A way of drawing."""

    name: str
    guide: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def guides(self, wanted: Wanted) -> list[Guide]:
        """Builds the guide for a prompt."""
        if self.guide is None:
            return []
        return [registry.build("guides", self.guide, words=wanted.nouns, **self.settings)]


TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "emoji": {
        "a_star": {"resolution": 4, "temperature": 10.0},
        "attend_and_excite": {"resolution": 8, "temperature": 10.0},
    },
    "emoji-scenes": {
        "a_star": {"resolution": 8, "temperature": 10.0},
        "attend_and_excite": {"resolution": 8, "temperature": 10.0},
    },
}
"""What guides are given on each model: what fits best on prompts that are not measured, by no more
than chance. On the model of single things `grid` moved no picture across the line there; on that of
scenes no setting of sixteen had both things in more pictures than plain sampling."""
SIZES = {"emoji": (4, 8), "emoji-scenes": (4, 8)}
"""Shorter sides of the maps that each model has."""


def grid(model: str) -> list[Way]:
    """Lists the settings that are tried on prompts that are not measured.

    The default temperature is that of Stable Diffusion, whose words have shares of attention of a
    few per cent. Here the first word of every prompt takes up to a third of it, and at 100 times
    that no other word's map is above zero.
    """
    found = []
    for side in SIZES[model]:
        at: dict[str, Any] = {"resolution": side}
        found += [
            Way("a_star", "a_star", at),
            Way("a_star", "a_star", at | {"temperature": 10.0}),
            Way("a_star", "a_star", at | {"temperature": 10.0, "step_size": 60.0}),
            Way("attend_and_excite", "attend_and_excite", at | {"temperature": 10.0}),
        ]
    at = {"resolution": 8, "temperature": 10.0}
    if model == "emoji-scenes":
        found += [
            Way("a_star", "a_star", at | {"step_size": 5.0}),
            Way("a_star", "a_star", at | {"until": 0.3}),
            Way("a_star", "a_star", at | {"segregation_norm": "sum", "retention_norm": "max"}),
            Way("a_star", "a_star", at | {"refine_at": (0.0,), "refine_to": (0.1,)}),
            Way("attend_and_excite", "attend_and_excite", at | {"until": 0.3}),
            Way("a_star", "a_star", at | {"normalised_step": 0.01}),
            Way("a_star", "a_star", at | {"normalised_step": 0.02}),
            Way("attend_and_excite", "attend_and_excite", at | {"normalised_step": 0.01}),
        ]
    return found


def ways(model: str) -> list[Way]:
    """Lists what is compared: both guides, and A-STAR with either of its losses alone."""
    given = TUNED[model]["a_star"]
    return [
        Way("plain"),
        Way("a_star", "a_star", given),
        Way("a_star, segregation alone", "a_star", given | {"retention": 0.0}),
        Way("a_star, retention alone", "a_star", given | {"segregation": 0.0}),
        Way("attend_and_excite", "attend_and_excite", TUNED[model]["attend_and_excite"]),
    ]


def asked(model: str, count: int, *, tuning: bool) -> dict[str, list[Wanted]]:
    """Lists prompts by their kind; those for tuning are of other things than those measured.

    ``pairs`` were never together in a training picture, ``seen`` pairs were, in other styles too.
    The model of single things has no captions of three.
    """
    if model == "emoji-scenes":
        scenes: Any = importlib.import_module(SCENES)
        kinds = {"pairs": (scenes.pairs, count), "triples": (scenes.triples, max(1, count // 2))}
        found = {}
        for kind, (made, most) in kinds.items():
            every = [Wanted(each.prompt, tuple(each.nouns)) for each in made(2 * most)]
            found[kind] = every[most:] if tuning else every[:most]
        return {"pairs": found["pairs"]} if tuning else found
    names = list(NOUNS)
    seen = [
        (one, other)
        for number, one in enumerate(names)
        if (other := names[(number * 7 + 11) % len(names)]) != one
        and not {(one, other), (other, one)} & {*TWO_OBJECT}
    ]
    if tuning:
        return {"seen": _spread(seen[::2], count)}
    return {"pairs": _spread(TWO_OBJECT, count), "seen": _spread(seen[1::2], count)}


def _spread(pairs: Sequence[tuple[str, str]], count: int) -> list[Wanted]:
    """Words some of the pairs, spread over all, in turning styles."""
    text, looks = TEMPLATES["two_objects"][0], [style.wording for style in STYLES.values()]
    some = pairs[:: max(1, len(pairs) // count)][:count]
    return [
        Wanted(prompt(text, one, style=looks[n % len(looks)], other=two), (one, two))
        for n, (one, two) in enumerate(some)
    ]


class Bench:
    """One bundled model with its judge."""

    def __init__(self, model: str) -> None:
        self.name, self.pipe = model, efface.load(model)

    @cached_property
    def judge(self) -> Any:
        """The judge of the model's pictures."""
        if self.name == "emoji":
            return EmojiJudge()
        return importlib.import_module("efface.bundled.scene_judge").SceneJudge()

    def drawn(self, way: Way, wanted: Sequence[Wanted], seeds: int) -> list[Guided]:
        """Draws every prompt with every seed."""
        return [
            draw(
                self.pipe,
                way.guides(each),
                [(each.prompt, seed) for seed in range(seeds)],
                steps=STEPS,
                guidance=GUIDANCE,
            )
            for each in wanted
        ]

    def seen(self, pictures: Sequence[Guided]) -> list[frozenset[str]]:
        """Tells which nouns the judge sees in each picture."""
        pixels = np.concatenate([each.pixels for each in pictures])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        nouns, _ = self.judge.probabilities(images)
        there = nouns >= self.judge.card.threshold
        return [
            frozenset(noun for noun, sees in zip(NOUNS, row, strict=True) if sees) for row in there
        ]

    def operations(self, way: Way, wanted: Wanted) -> int:
        """Counts the floating-point operations of one picture, forward and backward."""
        with _Operations() as counter:
            self.drawn(way, [wanted], 1)
        return counter.total


class _Operations(TorchDispatchMode):
    """Adds up torch's own counts of convolutions and products of matrices.

    torch's counting mode tells modules apart by hooks that gradients by inputs alone do not allow.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and counts it."""
        found = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.total += int(count(*args, **(kwargs or {}), out_val=found))
        return found


def outcomes(
    wanted: Sequence[Wanted], seen: Sequence[frozenset[str]]
) -> Iterator[dict[str, float]]:
    """Says of each picture whether all things are there, how many, and how well it fits."""
    repeats = len(seen) // len(wanted)
    for place, found in enumerate(seen):
        nouns = {*wanted[place // repeats].nouns}
        yield {
            "all": float(nouns <= found),
            "share": len(nouns & found) / len(nouns),
            "fit": len(nouns & found) / len(nouns | found),
        }


def _estimate(found: Any) -> dict[str, float]:
    return {
        "value": round(found.value, 4),
        "low": round(found.low, 4),
        "high": round(found.high, 4),
    }


def measured(
    bench: Bench,
    way: Way,
    wanted: Sequence[Wanted],
    seeds: int,
    plain: list[dict[str, float]] | None,
) -> tuple[dict[str, Any], list[dict[str, float]], list[Guided]]:
    """Draws one way and counts; compares it with plain sampling where that is given."""
    began = time.perf_counter()
    pictures = bench.drawn(way, wanted, seeds)
    seconds = (time.perf_counter() - began) / (len(wanted) * seeds)
    found = list(outcomes(wanted, bench.seen(pictures)))
    prompts = [each.prompt for each in wanted for _ in range(seeds)]
    every = {key: [each[key] for each in found] for key in ("all", "share", "fit")}
    row: dict[str, Any] = {
        "pictures": len(found),
        "all_present": _estimate(rate(every["all"], prompts)) | {"hits": int(sum(every["all"]))},
        "share_present": _estimate(mean(every["share"], prompts)),
        "fit": _estimate(mean(every["fit"], prompts)),
        "evaluations": round(float(np.mean([each.evaluations for each in pictures])), 1),
        "seconds": round(seconds, 2),
    }
    if plain is not None:
        compared = compare_rates([each["all"] for each in plain], every["all"], prompts)
        row["against_plain"] = _estimate(compared.difference) | {
            "gained": compared.gained,
            "lost": compared.lost,
        }
    return row, found, pictures


def measure(model: str, count: int, seeds: int, sheet: Path | None = None) -> None:
    """Measures what has no row yet."""
    bench, command = Bench(model), f"{model} --prompts {count} --seeds {seeds}"
    for kind, wanted in asked(model, count, tuning=False).items():
        known = {row["way"] for row in _rows() if _is(row, model, kind, "measured")}
        if not {way.name for way in ways(model)} - known:
            continue
        plain: list[dict[str, float]] | None = None
        reference, shown = 0, []
        for way in ways(model):
            row, found, pictures = measured(bench, way, wanted, seeds, plain)
            operations = bench.operations(way, wanted[0])
            reference = reference or operations
            plain = found if plain is None else plain
            shown.append(pictures)
            share = {"operations_of_plain": round(operations / reference, 3)}
            _write(_head(model, kind, "measured", way, (len(wanted), seeds)), row | share, command)
        if sheet is not None:
            _sheet(shown, sheet.with_stem(f"{sheet.stem}_{kind}"))


def tune(model: str, count: int, seeds: int) -> None:
    """Draws prompts that are not measured with every setting of the grid."""
    bench, command = Bench(model), f"{model} --prompts {count} --seeds {seeds} --tune"
    for kind, wanted in asked(model, count, tuning=True).items():
        plain: list[dict[str, float]] | None = None
        for way in (Way("plain"), *grid(model)):
            head = _head(model, kind, "tuning", way, (len(wanted), seeds))
            if plain is not None and any(head.items() <= row.items() for row in _rows()):
                continue
            row, found, _ = measured(bench, way, wanted, seeds, plain)
            plain = found if plain is None else plain
            _write(head, row, command)


def _head(model: str, kind: str, purpose: str, way: Way, count: tuple[int, int]) -> dict[str, Any]:
    return {
        "model": model,
        "prompts_of": kind,
        "purpose": purpose,
        "way": way.name,
        "settings": dict(way.settings),
        "prompts": count[0],
        "seeds": count[1],
        "threads": torch.get_num_threads(),
    }


def _is(row: Mapping[str, Any], model: str, kind: str, purpose: str) -> bool:
    return (row["model"], row["prompts_of"], row["purpose"]) == (model, kind, purpose)


def _rows() -> list[dict[str, Any]]:
    return list(json.loads(RESULTS.read_text("utf-8"))) if RESULTS.exists() else []


def _write(head: dict[str, Any], found: dict[str, Any], command: str) -> None:
    """Adds a row, in place of one of the same model, prompts, purpose, way and settings."""
    keys = ("model", "prompts_of", "purpose", "way", "settings")
    kept = [each for each in _rows() if any(each[key] != head[key] for key in keys)]
    row = head | found | {"command": f"python -m benchmarks.composition {command}"}
    text = json.dumps([*kept, row], indent=1, ensure_ascii=False) + "\n"
    write_atomically(RESULTS, text.encode())
    told = {key: row[key] for key in ("way", "settings", "all_present", "fit", "evaluations")}
    print(json.dumps(told), flush=True)


def _sheet(shown: Sequence[Sequence[Guided]], path: Path) -> None:
    """Writes pictures as one file, a row for each way, one column per prompt and seed."""
    rows = [
        np.concatenate([pixels for each in ways for pixels in each.pixels], 1) for ways in shown
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


def run() -> None:
    """Measures every bundled model that is there; that of scenes on 60 and 30 prompts, 4 seeds."""
    for model in MODELS:
        if model == "emoji":
            measure(model, 8, 2)
        elif importlib.util.find_spec(SCENES) is not None:
            measure(model, 60, 4)


def main() -> None:
    """Measures or tunes one model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    if given.tune:
        tune(given.model, given.prompts, given.seeds)
    else:
        measure(given.model, given.prompts, given.seeds, given.sheet)


if __name__ == "__main__":
    main()
