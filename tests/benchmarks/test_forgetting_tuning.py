"""The rule by which settings of baselines are chosen, and that presets follow it."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.forgetting_tuning import CANDIDATES, LOST, RESULTS, chosen

from efface.registry import build, load
from efface.runs.forgetting_eraser import SMALL


def row(name: str, kept: int, erased: int) -> dict[str, Any]:
    return {
        "method": "scrub",
        "settings": {"learning_rate": name},
        "erased": [10, erased, 10],
        "kept": [100, kept, 100],
    }


def best(*rows: dict[str, Any]) -> str:
    found: str = chosen(list(rows))["scrub"]["learning_rate"]
    return found


def test_the_fewest_pictures_of_what_goes_are_chosen_among_mild_ones() -> None:
    assert best(row("mild", 98, 4), row("strong", 97, 1), row("harsh", 60, 0)) == "strong"


def test_of_equals_the_cheaper_is_chosen() -> None:
    assert best(row("dear", 97, 1), row("cheap", 99, 1)) == "cheap"


def test_where_none_is_mild_the_one_that_costs_least_is_chosen() -> None:
    at_fault = 100 * (1 - LOST)
    assert best(row("harsh", 60, 0), row("milder", int(at_fault) - 1, 9)) == "milder"


def test_presets_are_what_was_chosen() -> None:
    for label, settings in json.loads(RESULTS.read_text("utf-8"))["chosen"].items():
        method, _, ending = label.partition(" ")
        own, usual = f"icons-vit{ending}", f"icons{ending}"
        preset = own if own in load("methods", method).presets() else usual
        found: Any = build("methods", method, preset=preset)
        wanted = SMALL | settings
        assert {name: getattr(found, name) for name in wanted} == wanted, label


def test_every_candidate_was_measured() -> None:
    rows = json.loads(RESULTS.read_text("utf-8"))["rows"]
    measured = {
        name: [one["settings"] for one in rows if one["method"] == name] for name in CANDIDATES
    }
    assert {name: len(own) for name, own in measured.items()} == {
        name: len(own) for name, own in CANDIDATES.items()
    }
