"""What exists by name: settings that are gone, and values that a setting names."""

import json
from pathlib import Path

import pytest

from efface import registry
from efface.errors import BadRequest

COMMITTED = Path(__file__).parents[2] / "benchmarks/results/training"
GONE = {"ema": 0.9, "patience": 20, "originals": "disk"}


def test_settings_that_are_gone_are_read_where_they_did_nothing():
    plain = registry.build("methods", "ant", steps=7)
    assert registry.build("methods", "ant", steps=7, **registry.RETIRED) == plain


@pytest.mark.parametrize("name", GONE)
def test_a_setting_that_is_gone_and_had_an_effect_is_refused(name):
    with pytest.raises(BadRequest, match=f"^{name} is {GONE[name]}, and this setting is gone"):
        registry.build("methods", "esd", **{name: GONE[name]})


def test_the_settings_of_committed_runs_are_read():
    read = 0
    for path in sorted(COMMITTED.rglob("*.json"))[::20]:
        made = json.loads(path.read_text())["provenance"]
        stages = registry.stage_names(made["method"].split("+"))
        for name, method in zip(stages, made["method"].split("+"), strict=True):
            settings = made["settings"][name] if len(stages) > 1 else made["settings"]
            assert registry.build("methods", method, **settings)
            read += 1
    assert read


@pytest.mark.parametrize(
    ("method", "setting", "value"),
    [
        ("rece", "regularisation", "surrogate_values"),
        ("rece", "regularisation", "limited"),
        ("esd", "parameters", "attn"),
    ],
)
def test_a_value_that_a_setting_does_not_name_is_refused_with_those_it_does(method, setting, value):
    with pytest.raises(BadRequest, match=f"^{setting} is '{value}'; choose one of: "):
        registry.build("methods", method, **{setting: value})


def test_presets_that_are_another_by_now_are_still_named_and_no_longer_listed():
    for (method, former), name in registry.SAME_PRESETS.items():
        presets = registry.load("methods", method).presets()
        assert former not in presets
        assert registry.build("methods", method, preset=former) == presets[name]
        changed = registry.build("methods", method, preset=former, centers=7)
        assert changed == registry.build("methods", method, preset=name, centers=7)
