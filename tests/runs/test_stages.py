"""Methods in turn: names of stages, and what their one result keeps of each."""

import json

import pytest

import efface
from efface.deltas.results import ErasureResult
from efface.errors import BadRequest
from efface.registry import stage_names

TOY = {"batch": 2, "sampling_steps": 3, "trajectories": 2, "keep_weight": 0.0}


def erased(pipe, method, **settings):
    return efface.erase(pipe, "pistol", keep=["cat"], method=method, **settings)


def test_a_method_that_comes_again_is_counted():
    assert stage_names(["uce", "esd", "uce", "uce"]) == ["uce", "esd", "uce-2", "uce-3"]


@pytest.mark.thorough
def test_curves_of_all_stages_are_kept_whatever_their_length(tiny_sd1, tmp_path):
    settings = {"esd": {**TOY, "steps": 3}, "esd-2": {**TOY, "steps": 2}}
    made = erased(tiny_sd1, "uce+esd+esd", **settings)
    lengths = {name: len(curve) for name, curve in made.curves.items()}
    assert lengths["uce: residual"] == 1
    assert lengths["esd: erase"] == 3
    assert lengths["esd-2: erase"] == 2
    assert set(made.delta.provenance.settings) == {"uce", "esd", "esd-2"}
    assert set(made.diagnostics["stages"]) == {"uce", "esd", "esd-2"}
    made.save(tmp_path)
    assert ErasureResult.load(tmp_path).curves == made.curves
    last = json.loads((tmp_path / "curves.jsonl").read_text("utf-8").splitlines()[-1])
    assert all(name.startswith(("step", "esd: ")) for name in last)


@pytest.mark.thorough
def test_one_method_keeps_the_plain_names_of_its_curves(tiny_sd1):
    assert "erase" in erased(tiny_sd1, "esd", **TOY, steps=2).curves


@pytest.mark.thorough
def test_a_stage_may_have_a_preset_of_its_own(tiny_sd1):
    made = erased(tiny_sd1, "uce+rece", rece={"preset": "paper-sd14-unsafe", "rounds": 1})
    alone = erased(tiny_sd1, "rece", preset="paper-sd14-unsafe", rounds=1)
    assert made.delta.provenance.settings["rece"] == alone.delta.provenance.settings
    with pytest.raises(BadRequest, match="no preset of rece called 'papr'"):
        erased(tiny_sd1, "uce+rece", rece={"preset": "papr"})


def test_a_later_stage_that_needs_an_anchor_is_refused_before_the_first_runs(tiny_sd1):
    def look(*_):
        pytest.fail("a stage ran")

    with pytest.raises(BadRequest, match="concept_ablation puts an anchor"):
        erased(tiny_sd1, "esd+concept_ablation", esd=TOY, monitor=look)
