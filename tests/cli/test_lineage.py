"""Requests made on top of one another: in force together, repeated, and one of them revoked."""

import json
import shutil

import pytest
import torch

import efface as package
from efface.cli import debias
from efface.deltas.composition import without
from efface.errors import BadDelta
from efface.hosts.components import parameters
from efface.workbench import lineage, runs

SETTINGS = ("--steps", "3", "--trajectories", "2", "--sampling-steps", "3", "--no-evaluate")
CONCEPTS = ("cat", "dog", "boat")


@pytest.fixture(scope="module")
def chain(model, tmp_path_factory):
    """Three requests on the toy model, each on top of the one before."""
    from efface.cli.main import main

    folder, after = tmp_path_factory.mktemp("chain"), []
    for number, concept in enumerate(CONCEPTS):
        out = folder / f"run{number}"
        words = ["erase", "esd", "--model", model, "--concept", concept, *SETTINGS, *after]
        assert main([str(word) for word in [*words, "--out", out]]) == 0
        after = ["--after", out]
    return folder


@pytest.fixture
def moved(chain, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(chain, tmp_path / "moved")


@pytest.mark.thorough
def test_each_names_those_beneath_it(chain):
    found = [runs.open_run(chain / f"run{number}").delta for number in range(3)]
    assert found[2].provenance.parents == (found[0].id, found[1].id)
    assert [one.id for one in lineage.whole(runs.open_run(chain / "run2"))] == [
        one.id for one in found
    ]


@pytest.mark.thorough
def test_repeats_verifies_and_draws_with_those_beneath(chain, efface, tmp_path):
    assert "equal" in efface("rerun", chain / "run2").out
    assert efface("verify", chain / "run2").code == 0
    told = efface(
        "apply", chain / "run2", "--prompt", "x", "--out", tmp_path / "x.png", "--steps", "2",
        "--json",
    )  # fmt: skip
    assert len(told.json["deltas"]) == 3


def test_runs_that_moved_together_find_each_other(moved, chain, efface):
    shutil.move(chain, hidden := chain.with_name("hidden"))
    try:
        assert efface("verify", moved / "run2").code == 0
    finally:
        shutil.move(hidden, chain)


@pytest.mark.thorough
def test_refuses_another_run_beneath(moved, model, efface, tmp_path):
    words = ("erase", "esd", "--model", model, "--concept", "tree", *SETTINGS)
    efface(*words, "--out", moved / "run1", "--overwrite")
    record = (moved / "run2" / "run.json").read_text()
    found = record.replace(str(runs.recipe_of(moved / "run2").after), str(moved / "run1"))
    (moved / "run2" / "run.json").write_text(found)
    told = efface("verify", moved / "run2")
    assert told.code == 2
    assert "made on top of" in told.err


def test_refuses_a_run_of_another_model(chain, other_model, efface, tmp_path):
    told = efface(
        "erase", "esd", "--model", other_model, "--concept", "tree", *SETTINGS,
        "--after", chain / "run0", "--out", tmp_path / "run",
    )  # fmt: skip
    assert told.code == 2
    assert "requests in turn are of one model" in told.err


@pytest.mark.thorough
def test_revoking_one_leaves_the_sum_of_the_others(chain, model, efface, tmp_path):
    told = efface(
        "revoke", chain / "run1", "--of", chain / "run2", "--out", tmp_path / "left",
        "--no-evaluate",
    )  # fmt: skip
    assert told.code == 0
    first, _, last = lineage.whole(runs.open_run(chain / "run2"))
    pipe = package.load(model)
    before = {key: weight.detach().clone() for key, weight in parameters(pipe)}
    left = runs.open_run(tmp_path / "left").delta
    with left.apply(pipe):
        for key, weight in parameters(pipe):
            wanted = before[key] + first.difference(key, before[key])
            torch.testing.assert_close(weight, wanted + last.difference(key, before[key]))
    erased = [one["concept"]["name"] for one in left.provenance.request["erasures"]]
    assert erased == ["cat", "boat"]
    assert "equal" in efface("rerun", tmp_path / "left").out


@pytest.mark.thorough
def test_later_requests_are_made_again_without_the_revoked_one(chain, model, efface, tmp_path):
    told = efface(
        "revoke", chain / "run0", "--of", chain / "run2", "--out", tmp_path / "left",
        "--no-evaluate", "--repeat",
    )  # fmt: skip
    assert told.code == 0
    left = runs.open_run(tmp_path / "left").delta
    alone = runs.open_run(tmp_path / "left").record["recipe"]
    assert alone["repeat"] is True
    erased = [one["concept"]["name"] for one in left.provenance.request["erasures"]]
    assert erased == ["dog", "boat"]
    before = efface("rerun", tmp_path / "left")
    assert "equal" in before.out
    words = ("erase", "esd", "--model", model, "--concept", "dog", *SETTINGS)
    efface(*words, "--out", tmp_path / "dog")
    assert runs.open_run(tmp_path / "dog").delta.id in left.provenance.parts


def test_refuses_to_revoke_what_is_not_beneath_or_the_only_one(chain, efface, tmp_path):
    told = efface("revoke", chain / "run2", "--of", chain / "run1", "--out", tmp_path / "a")
    assert (told.code, "is not beneath" in told.err) == (2, True)
    told = efface("revoke", chain / "run0", "--of", chain / "run0", "--out", tmp_path / "b")
    assert (told.code, "stands on no other" in told.err) == (2, True)


@pytest.mark.thorough
def test_refuses_to_revoke_beneath_a_text_map(chain, model, efface, tmp_path):
    efface(
        "erase", "uce", "--model", model, "--concept", "tree", "--no-evaluate",
        "--after", chain / "run1", "--out", tmp_path / "map",
    )  # fmt: skip
    told = efface("revoke", chain / "run0", "--of", tmp_path / "map", "--out", tmp_path / "left")
    assert told.code == 2
    assert "a text map, which depends on the weights it met" in told.err


def test_the_model_lacks_a_parent_that_was_taken_off(chain, model):
    first, second, last = lineage.whole(runs.open_run(chain / "run2"))
    pipe = package.load(model)
    with first.apply(pipe), pytest.raises(BadDelta, match="which this model lacks"):
        last.apply(pipe)
    with without((first, second, last), second.id).apply(pipe):
        pass


@pytest.mark.thorough
def test_a_revocation_of_the_last_says_nothing_of_requests_made_with_it(chain, efface, tmp_path):
    last = ("revoke", chain / "run1", "--of", chain / "run1", "--no-evaluate")
    assert "made with it in force" not in efface(*last, "--out", tmp_path / "left").out


def test_what_a_debiased_run_is_left_with_is_no_erasure(chain, efface, tmp_path, monkeypatch):
    monkeypatch.setattr(debias, "METHOD", "esd")
    last = ("revoke", chain / "run1", "--of", chain / "run1", "--no-evaluate")
    refused = efface(*last, "--out", tmp_path / "left")
    assert refused.code == 2
    assert f"erases nothing; use the run beneath it: {chain / 'run0'}" in refused.err


def test_a_run_whose_parent_is_gone_says_which(moved, chain, efface, tmp_path):
    record = runs.record_of(moved / "run1")
    record["recipe"]["after"] = str(tmp_path / "gone" / "run0")
    (moved / "run1" / "run.json").write_text(json.dumps(record))
    shutil.rmtree(moved / "run0")
    refused = efface("apply", moved / "run1", "--prompt", "x", "--out", tmp_path / "x.png")
    assert refused.code == 2
    assert "run1 was made on top of the run" in refused.err
    assert "which is not there" in refused.err
