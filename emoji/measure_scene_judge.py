"""Measures the judge of scenes on scenes it never saw, and writes its card.

    python emoji/measure_scene_judge.py [--weights FILE]

Writes the card beside the weights and benchmarks/results/scene_judge.json. Strangers in these
scenes are other icons than in training.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from efface.bundled import weights_folder
from efface.bundled.scene_judge import CELLS, SceneJudge, Seen, relation
from efface.bundled.vocabulary import NOUNS, STYLES
from efface.metrics.estimates import rate
from measure import RESULTS, Figure, tell
from scene_material import Material
from train_scene_judge import stored

PICTURES = 900
NOTHING = 0.3
"""Share of pictures of nothing."""
SEED = 32
VERSION = "1"
NEAR = 2 / CELLS
"""Share of the picture between a thing and where it is seen up to which it is that thing."""
FALSE = 0.02
"""Share of pictures of nothing in which the threshold may let something be seen."""

Things = Sequence[tuple[Seen, ...]]


def shown(material: Material) -> list[list[Seen]]:
    """What is in each picture."""
    names, found = list(NOUNS), [list[Seen]() for _ in material.pixels]
    for number, noun, down, across in material.things.tolist():
        found[number].append(Seen(names[noun], (across + 0.5) / CELLS, (down + 0.5) / CELLS, 1.0))
    return found


def found_in(each: Seen, seen: Sequence[Seen]) -> bool:
    """Whether a thing is seen where it is."""
    return any(
        one.noun == each.noun
        and max(abs(one.across - each.across), abs(one.down - each.down)) <= NEAR
        for one in seen
    )


def nothing_seen(truth: list[list[Seen]], seen: Things) -> list[float]:
    """How sure the judge is of something in each picture of nothing; 0 where it sees nothing."""
    empty = [s for t, s in zip(truth, seen, strict=True) if not t]
    return [max((one.probability for one in each), default=0.0) for each in empty]


def threshold(material: Material, seen: Things) -> float:
    """The lowest of some thresholds with few enough false alarms."""
    sure = torch.tensor(nothing_seen(shown(material), seen))
    for each in (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7):
        if float((sure >= each).float().mean()) <= FALSE:
            return each
    return 0.75


def at_least(seen: Things, bar: float) -> list[tuple[Seen, ...]]:
    """What remains at a threshold."""
    return [tuple(one for one in each if one.probability >= bar) for each in seen]


def figures(truth: list[list[Seen]], seen: Things, what: str) -> list[Figure]:
    """Things seen, false ones, exact counts and places."""
    hits = [found_in(each, s) for t, s in zip(truth, seen, strict=True) for each in t]
    false = [not found_in(one, t) for t, s in zip(truth, seen, strict=True) for one in s]
    exact, pairs, places, repeated = [], [], [], []
    for t, s in zip(truth, seen, strict=True):
        wanted, got = Counter(one.noun for one in t), Counter(one.noun for one in s)
        exact.append(wanted == got)
        if max(wanted.values(), default=0) > 1:
            repeated.append(wanted == got)
        if len(wanted) >= 2:
            pairs.append(set(wanted) <= set(got))
        if len(t) == 2 and len(wanted) == 2 and (place := relation(t[0], t[1])):
            named = {one.noun: one for one in s}
            both = t[0].noun in named and t[1].noun in named
            places.append(both and relation(named[t[0].noun], named[t[1].noun]) == place)
    empty = [bool(s) for t, s in zip(truth, seen, strict=True) if not t]
    table = {
        "things that are seen": hits,
        "things seen that are not there": false,
        "pictures of nothing in which something is seen": empty,
        "all things of several seen": pairs,
        "exactly these things, each as often": exact,
        "several of one kind, counted right": repeated,
        "two things, seen and in the right relation": places,
    }
    return [
        Figure(f"{what}: {name}", rate(torch.tensor(found, dtype=torch.float32)))
        for name, found in table.items()
    ]


def write_card(found: list[Figure], path: Path, bar: float) -> None:
    """The card of the judge: its rates on all scenes."""
    known = {figure.what: figure.estimate for figure in found}
    card = {
        "version": VERSION,
        "threshold": bar,
        "true_positive_rate": asdict(known["all scenes: things that are seen"]),
        "false_positive_rate": asdict(
            known["all scenes: pictures of nothing in which something is seen"]
        ),
        "notes": "rates on scenes of real icons, half of them through the autoencoder, with icons "
        "outside the vocabulary and spoilt ones among them; the threshold was chosen on other "
        "scenes, so that few pictures of nothing are seen as something",
    }
    path.write_text(json.dumps(card, indent=1) + "\n")


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--weights", type=Path)
    given = reader.parse_args()
    torch.set_num_threads(1)
    weights = given.weights or weights_folder() / "scene_judge.safetensors"
    card = weights.with_suffix(".json")
    unknown = {"value": 0.0, "low": 0.0, "high": 1.0, "count": 0}
    rates = {"true_positive_rate": unknown, "false_positive_rate": unknown}
    card.write_text(json.dumps({"version": VERSION, "threshold": 0.25, "notes": ""} | rates))
    judge = SceneJudge(weights)
    chosen_on = stored(PICTURES // 2, SEED + 1, "judge_threshold", nothing=0.6)
    bar = threshold(chosen_on, judge.things(chosen_on.pixels.float() / 255))
    held_out = stored(PICTURES, SEED, "judge_test", unseen=True, nothing=NOTHING)
    seen = at_least(judge.things(held_out.pixels.float() / 255), bar)
    truth = shown(held_out)
    found = figures(truth, seen, "all scenes")
    found += figures(truth[1::2], seen[1::2], "real")
    found += figures(truth[::2], seen[::2], "through the autoencoder")
    _, looks = judge.probabilities(held_out.pixels.float() / 255)
    found.append(Figure("all scenes: style", rate((looks.argmax(1) == held_out.styles).float())))
    for number, style in enumerate(STYLES):
        some = [row for row, each in enumerate(held_out.styles.tolist()) if each == number]
        part = figures([truth[row] for row in some], [seen[row] for row in some], style)
        found.append(part[0])
    write_card(found, card, bar)
    tell(found)
    record = {
        "command": "python emoji/measure_scene_judge.py",
        "threshold": bar,
        "scenes": PICTURES,
        "bytes": weights.stat().st_size,
        "figures": [asdict(figure) | {"met": figure.met} for figure in found],
    }
    (RESULTS.parent / "scene_judge.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
