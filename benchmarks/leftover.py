"""Measures the bundled judges on pictures of erased prompts that somebody looked at.

    python -m benchmarks leftover     writes results/leftover/rates.json and the judges' cards

Pictures are those of `benchmarks.leftover_pictures`, labels those of
``results/leftover/labels.json``: "yes" where the thing, its outline or about half of it is still to
be seen, "no" where it is gone, "unsure" where people would not agree; the last count for nothing.
``missed`` is the share of "yes" pictures in which an instrument sees nothing, ``false_alarms`` the
share of "no" pictures in which it sees something. The threshold of the judge of leftovers comes
from the tuning part alone (`chosen_threshold`), so its own rates are those of the other parts;
nothing of the other judges was chosen on any of them, and theirs are of all parts.

    python -m benchmarks leftover_methods     writes results/leftover/methods.json

asks both judges about the erased prompts of the benchmark's suite, after whole erasures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import torch
from torch import Tensor

import efface
from benchmarks.concepts import TRAINED_NOUNS
from benchmarks.leftover_pictures import (
    ALWAYS,
    CLOSED,
    LABELS,
    PARTS,
    Drawer,
    Picture,
    Trial,
    blocks,
    drawn,
)
from efface.bundled import understood, weights_folder
from efface.bundled.judge import FILES, LEFTOVER, EmojiJudge
from efface.bundled.suites import emoji_suite
from efface.bundled.vocabulary import STYLES
from efface.evaluation.samples import in_role
from efface.files import write_atomically
from efface.metrics.estimates import rate
from efface.metrics.presence import ask

RESULTS = LABELS.parent / "rates.json"
BY_METHOD = LABELS.parent / "methods.json"
VERSION = "1"
MISSED = 0.025
"""What the judge of leftovers may miss of the tuning part, in each style of ``ALWAYS``: half of the
bar of 5 %, since a threshold does worse on what it was not chosen on."""
NOTES = (
    "the first judge at a lower threshold, chosen on labelled pictures of other nouns; rates on {} "
    "pictures of erased prompts, by eye: how often it sees what is left, and how often it sees "
    "something where nothing is"
)


def chosen_threshold(rows: Iterable[Mapping[str, Any]]) -> float:
    """Gives the largest threshold, to two digits, that misses at most ``MISSED`` of each style.

    Args:
        rows: the tuning part, with ``style``, ``seen`` and the first judge's answer ``emoji``.
    """
    rows, found = list(rows), 1.0
    for style in ALWAYS:
        answers = sorted(
            row["emoji"] for row in rows if (row["style"], row["seen"]) == (style, "yes")
        )
        found = min(found, answers[math.floor(MISSED * len(answers))])
    digits = 1 - math.floor(math.log10(found))
    return math.floor(found * 10**digits) / 10**digits


def answered() -> list[dict[str, Any]]:
    """Draws every labelled picture and asks the judges; one row a picture."""
    labels: dict[str, str] = json.loads(LABELS.read_text("utf-8"))["seen"]
    judges = {name: EmojiJudge(name) for name in ("emoji", "emoji-second")}
    rows, drawer = [], cache(Drawer)
    for block, some in blocks().items():
        places = [place for place, one in enumerate(some) if one.key in labels]
        if not places:
            continue
        mine, images = [some[place] for place in places], drawn(block, drawer)["after"][places]
        given = {name: asked(judge, images, mine) for name, judge in judges.items()}
        for place, one in enumerate(mine):
            facts = {"key": one.key, "part": block.rpartition("-")[0], "style": one.style}
            told = {name: round(float(each[place]), 5) for name, each in given.items()}
            rows.append(facts | {"seen": labels[one.key]} | told)
    return rows


def asked(judge: EmojiJudge, images: Tensor, some: Sequence[Picture]) -> Tensor:
    """Gives a judge's answers about the thing that was to go."""
    return ask(judge, images, [one.sample.concept for one in some])


def rates(rows: Sequence[Mapping[str, Any]], judge: str, threshold: float) -> dict[str, Any]:
    """Gives misses and false alarms of a judge's answers at a threshold, by style and in all."""
    found = {}
    for style in (*STYLES, "all"):
        mine = [row for row in rows if style in (row["style"], "all")]
        left = [row[judge] < threshold for row in mine if row["seen"] == "yes"]
        gone = [row[judge] >= threshold for row in mine if row["seen"] == "no"]
        unsure = [row[judge] >= threshold for row in mine if row["seen"] == "unsure"]
        found[style] = {
            "missed": asdict(rate(left)) if left else None,
            "false_alarms": asdict(rate(gone)) if gone else None,
            "unsure": len(unsure),
            "unsure_seen": sum(unsure),
        }
    return found


def run() -> None:
    """Measures all judges and writes what was found, also onto their cards."""
    torch.set_num_threads(1)
    rows = answered()
    others = [row for row in rows if row["part"] != "tuning"]
    threshold = chosen_threshold(row for row in rows if row["part"] == "tuning")
    found = {}
    for name in ("emoji", "emoji-second"):
        usual = EmojiJudge(name).card.threshold
        found[name] = {"threshold": usual, "by_part": parts(rows, name, usual)}
        found[name]["rates"] = rates(rows, name, usual)
    found["emoji-leftover"] = {
        "threshold": threshold,
        "by_part": parts(rows, "emoji", threshold),
        "rates": rates(others, "emoji", threshold),
    }
    record = {
        "command": "python -m benchmarks leftover",
        "allowed_on_tuning": MISSED,
        "judges": found,
        "pictures": rows,
    }
    write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())
    write_cards(found, sum(row["seen"] != "unsure" for row in others))
    for name, each in found.items():
        for style, one in each["rates"].items():
            told = [one[what] and f"{one[what]['hits']}/{one[what]['count']}" for what in _RATES]
            print(f"{name:16} {style:16} missed {told[0]}, false alarms {told[1]}", flush=True)


_RATES = ("missed", "false_alarms")


def parts(rows: Sequence[Mapping[str, Any]], judge: str, threshold: float) -> dict[str, Any]:
    """Gives the rates of each part."""
    return {
        part: rates([row for row in rows if row["part"] == part], judge, threshold)
        for part in PARTS
    }


def write_cards(found: Mapping[str, Any], count: int) -> None:
    """Puts misses by style onto the judges' cards, and writes that of the judge of leftovers."""
    for name, file in FILES.items():
        path = weights_folder() / f"{file}.json"
        card = json.loads(path.read_text("utf-8")) | {"leftovers_missed": missed(found[name])}
        write_atomically(path, (json.dumps(card, indent=1) + "\n").encode())
    own, whole = found["emoji-leftover"], found["emoji-leftover"]["rates"]["all"]
    seen = whole["missed"]
    card = {
        "version": VERSION,
        "threshold": own["threshold"],
        "true_positive_rate": {
            "value": 1 - seen["value"],
            "low": 1 - seen["high"],
            "high": 1 - seen["low"],
            "count": seen["count"],
            "hits": seen["count"] - seen["hits"],
        },
        "false_positive_rate": whole["false_alarms"],
        "notes": NOTES.format(count),
        "leftovers_missed": missed(own),
    }
    text = json.dumps(card, indent=1) + "\n"
    write_atomically(weights_folder() / f"{LEFTOVER}.json", text.encode())


def missed(found: Mapping[str, Any]) -> dict[str, Any]:
    """Gives misses by style, where there was something to miss."""
    return {style: one["missed"] for style, one in found["rates"].items() if one["missed"]}


def methods() -> None:
    """Erases the nouns of `TRAINED_NOUNS` by the closed forms and asks both judges."""
    torch.set_num_threads(1)
    drawer, first = Drawer(), EmojiJudge()
    known = json.loads(BY_METHOD.read_text("utf-8"))["rows"] if BY_METHOD.exists() else []
    done = {(row["method"], row["concept"]) for row in known}
    for noun in TRAINED_NOUNS:
        samples = emoji_suite(understood(efface.request(noun)), size="benchmark").samples
        some = in_role(samples, "erased")
        for method in CLOSED:
            if (method, noun) in done:
                continue
            trial = Trial(noun, method)
            pictures = [Picture(trial, sample) for sample in some]
            row: dict[str, Any] = {"method": method, "concept": noun}
            for time, images in (
                ("before", drawer.before(pictures)),
                ("after", drawer.after(pictures)),
            ):
                row[time] = {
                    name: asdict(rate(asked(judge, images, pictures) >= judge.card.threshold))
                    for name, judge in (("presence", first), ("leftover", first.leftovers))
                }
            known.append(row)
            record = {
                "command": "python -m benchmarks leftover_methods",
                "judges": [
                    f"{judge.card.name}@{judge.card.version}" for judge in (first, first.leftovers)
                ],
                "rows": known,
            }
            write_atomically(BY_METHOD, (json.dumps(record, indent=1) + "\n").encode())
            print(method, noun, *(row["after"][name]["hits"] for name in row["after"]), flush=True)
