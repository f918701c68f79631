"""The bundled model's presets are those that the committed sweeps chose."""

import json
from dataclasses import asdict

import pytest

from benchmarks import mass, presets
from efface.registry import load


def committed(path):
    return json.loads(path.read_text("utf-8"))


def chosen(name):
    """The settings of the record, which must follow from its rows."""
    record = committed(presets.RESULTS / f"{name}.json")
    assert record["chosen"] == presets.chosen(record["rows"])["settings"]
    return record["chosen"]


@pytest.mark.parametrize("name", [*presets.CANDIDATES, *presets.TRAINED])
def test_the_preset_is_what_the_sweep_chose(name):
    method = load("methods", name)
    settings = chosen(name)
    if name == "ant":  # How layers of several concepts are fused was chosen on its own.
        fused = chosen("ant_fused")
        settings |= {key: fused[key] for key in ("fusion_scale", "fusion_keep")}
    if name == "spm":  # What opens membranes was chosen on its own, by benchmarks.gate.
        settings |= {"opens_by": "closest_part"}
    assert asdict(method.presets()["emoji"]) == asdict(method(**settings))


def test_the_preset_for_many_concepts_is_what_the_sweep_chose():
    swept = committed(mass.RESULTS)["sweep"]["uce"]
    assert swept["chosen"] == mass.chosen(swept["rows"])
    uce = load("methods", "uce")
    assert uce.presets()["emoji-many"] == uce(**swept["chosen"])


def row(name, left, lost, **more):
    """A candidate that leaves and loses so many of 100 pictures."""
    cells = {"erased": left, "synonym": 0, "kept": 100 - lost, "kept style": 100}
    after = {cell: {"hits": hits, "count": 100} for cell, hits in cells.items()}
    before = {cell: {"hits": 100, "count": 100} for cell in cells}
    told = {"settings": {"name": name, "steps": 120}, "failures": []}
    return told | {"before": before, "after": after} | more


def best(*rows):
    return presets.chosen([*rows])["settings"]["name"]


def test_the_rule_weighs_what_is_left_and_lost_by_their_limits():
    assert best(row("loses", 0, 4), row("between", 8, 1), row("leaves", 14, 1)) == "between"
    assert best(row("loses too much", 0, 6), row("allowed", 18, 1)) == "allowed"


def test_fewer_steps_and_then_a_second_seed_decide_a_tie():
    longer = {"settings": {"name": "longer", "steps": 240}}
    assert best(row("longer", 4, 2) | longer, row("shorter", 4, 2)) == "shorter"
    again = {presets.AGAIN: row("", 6, 2)}, {presets.AGAIN: row("", 5, 2)}
    assert best(row("first", 4, 2, **again[0]), row("second", 4, 2, **again[1])) == "second"
