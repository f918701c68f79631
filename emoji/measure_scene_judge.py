"""Measures the judge of scenes on scenes it never saw, and writes its card.

    python emoji/measure_scene_judge.py

Writes src/efface/bundled/weights/scene_judge.json and benchmarks/results/scene_judge.json. The
threshold is the lowest of some at which few scenes of nothing are seen as something; it is chosen
on other scenes than those that are measured. Strangers are icons that the bundled judge, which
looks at each slot, was not trained on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from efface.bundled import weights_folder
from efface.bundled.scene_judge import SceneJudge, Seen, relation
from efface.bundled.vocabulary import NOUNS, STYLES
from efface.metrics.estimates import rate
from measure import RESULTS, Figure, tell
from scene_material import Material, material

PICTURES = 900
NOTHING = 0.3
"""Share of scenes with nothing of the vocabulary."""
SEED = 32
VERSION = "2"
FALSE = 0.02
"""Share of scenes of nothing in which the threshold may let something be seen."""
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)

Things = Sequence[tuple[Seen, ...]]


def shown(material: Material) -> list[tuple[Seen, ...]]:
    """What is in each picture."""
    names = list(NOUNS)
    return [
        tuple(Seen(names[noun], slot, 1.0) for slot, noun in enumerate(slots) if noun >= 0)
        for slots in material.nouns.tolist()
    ]


def threshold(material: Material, seen: Things) -> float:
    """The lowest threshold with few enough false alarms."""
    empty = [s for t, s in zip(shown(material), seen, strict=True) if not t]
    sure = torch.tensor([max((one.probability for one in s), default=0.0) for s in empty])
    for each in THRESHOLDS:
        if float((sure >= each).float().mean()) <= FALSE:
            return each
    raise SystemExit(f"at every threshold, over {FALSE:.0%} of scenes of nothing show something")


def at_least(seen: Things, bar: float) -> list[tuple[Seen, ...]]:
    """What remains at a threshold."""
    return [tuple(one for one in each if one.probability >= bar) for each in seen]


def slots(things: Iterable[Seen]) -> dict[int, str]:
    """The noun in each slot that has one."""
    return {one.slot: one.noun for one in things}


def nouns(things: Iterable[Seen]) -> Counter[str]:
    """How many there are of each noun."""
    return Counter(one.noun for one in things)


Question = Callable[[tuple[Seen, ...], tuple[Seen, ...]], Iterable[bool]]


def _related(there: tuple[Seen, ...], seen: tuple[Seen, ...]) -> Iterable[bool]:
    if len(there) != 2 or len(nouns(there)) != 2:
        return []
    named = {one.noun: one for one in seen}
    both = all(one.noun in named for one in there)
    ends = [named[one.noun] for one in there] if both else []
    return [both and relation(*ends) == relation(*there)]


QUESTIONS: dict[str, Question] = {
    "things that are seen": lambda t, s: [slots(s).get(one.slot) == one.noun for one in t],
    "things seen that are not there": lambda t, s: [
        slots(t).get(one.slot) != one.noun for one in s
    ],
    "scenes of nothing in which something is seen": lambda t, s: [] if t else [bool(s)],
    "all things of several seen": lambda t, s: (
        [set(nouns(t)) <= set(nouns(s))] if len(nouns(t)) > 1 else []
    ),
    "exactly these things, each as often": lambda t, s: [nouns(t) == nouns(s)],
    "several of one kind, counted right": lambda t, s: (
        [nouns(t) == nouns(s)] if max(nouns(t).values(), default=0) > 1 else []
    ),
    "two things, seen and on the right sides": _related,
}


def figures(
    truth: Things, seen: Things, what: str, questions: Iterable[str] = QUESTIONS
) -> list[Figure]:
    """Things seen, false ones, exact counts and sides."""
    found = []
    for name in questions:
        asks = QUESTIONS[name]
        answers = [hit for t, s in zip(truth, seen, strict=True) for hit in asks(t, s)]
        found.append(Figure(f"{what}: {name}", rate(torch.tensor(answers, dtype=torch.float32))))
    return found


def all_figures(judge: SceneJudge, held_out: Material, bar: float) -> list[Figure]:
    """Rates on all scenes, on real ones, on reconstructions, and of each style."""
    images: Tensor = held_out.pixels.float() / 255
    seen, truth = at_least(judge.things(images), bar), shown(held_out)
    found = figures(truth, seen, "all scenes")
    found += figures(truth[1::2], seen[1::2], "real")
    found += figures(truth[::2], seen[::2], "through the autoencoder")
    _, looks = judge.probabilities(images)
    known = torch.tensor([bool(each) for each in truth])
    right = (looks.argmax(1) == held_out.styles)[known]
    found.append(Figure("scenes with a known thing: style", rate(right.float())))
    for number, style in enumerate(STYLES):
        some = [row for row, each in enumerate(held_out.styles.tolist()) if each == number]
        parts = [truth[row] for row in some], [seen[row] for row in some]
        found += figures(*parts, style, ["things that are seen"])
    return found


def write_card(found: list[Figure], path: Path, bar: float) -> None:
    """The card of the judge: its rates on all scenes."""
    known = {figure.what: figure.estimate for figure in found}
    card = {
        "version": VERSION,
        "threshold": bar,
        "true_positive_rate": asdict(known["all scenes: things that are seen"]),
        "false_positive_rate": asdict(
            known["all scenes: scenes of nothing in which something is seen"]
        ),
        "notes": "rates on new views of real icons in scenes, half of them through the "
        "autoencoder, with icons outside the vocabulary, spoilt ones and empty slots among them; "
        "the threshold was chosen on other scenes, so that few scenes of nothing are seen as "
        "something",
    }
    path.write_text(json.dumps(card, indent=1) + "\n")


def main() -> None:
    torch.set_num_threads(1)
    card = weights_folder() / "scene_judge.json"
    unknown = {"value": 0.0, "low": 0.0, "high": 1.0, "count": 0}
    rates = {"true_positive_rate": unknown, "false_positive_rate": unknown}
    lowest = {"version": VERSION, "threshold": THRESHOLDS[0], "notes": ""}
    card.write_text(json.dumps(lowest | rates))
    judge = SceneJudge()
    chosen_on = material(PICTURES // 2, SEED + 1, nothing=0.6)
    bar = threshold(chosen_on, judge.things(chosen_on.pixels.float() / 255))
    found = all_figures(judge, material(PICTURES, SEED, nothing=NOTHING), bar)
    write_card(found, card, bar)
    tell(found)
    record = {
        "command": "python emoji/measure_scene_judge.py",
        "threshold": bar,
        "scenes": PICTURES,
        "figures": [asdict(figure) | {"met": figure.met} for figure in found],
    }
    (RESULTS.parent / "scene_judge.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
