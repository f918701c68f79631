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
    assert asdict(method.presets()["emoji"]) == asdict(method(**settings))


def test_the_preset_for_many_concepts_is_what_the_sweep_chose():
    swept = committed(mass.RESULTS)["sweep"]["uce"]
    assert swept["chosen"] == mass.chosen(swept["rows"])
    uce = load("methods", "uce")
    assert uce.presets()["emoji-many"] == uce(**swept["chosen"])
