"""What is submitted is measured as the leaderboard's rows are, or refused with the reason."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import efface
from benchmarks import submit
from efface.errors import BadRequest

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tools"))

import leaderboard_page
import readme_tables


@pytest.fixture(scope="module")
def delta():
    return efface.erase(efface.load("emoji"), "pistol", method="uce").delta


def test_what_is_neither_file_nor_method_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="'nothing' is neither a file nor a method; give"):
        submit.run(["nothing"], tmp_path)


def test_a_name_that_leaves_the_folder_is_refused(tmp_path):
    with pytest.raises(BadRequest, match=r"'\.\./x' cannot name a row; give --name"):
        submit.run(["uce", "--name", "../x"], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_a_delta_says_what_it_erases(delta):
    assert submit.request_of(delta).erasures[0].concept.name == "pistol"


def test_a_delta_of_several_concepts_is_refused(delta):
    told = dict(delta.provenance.request)
    twice = {**told, "erasures": list(told["erasures"]) * 2}
    several = replace(delta, provenance=replace(delta.provenance, request=twice))
    with pytest.raises(BadRequest, match=r"\['pistol', 'pistol'\]; the leaderboard compares"):
        submit.request_of(several)


def row(name, hits, concept="pistol", suite="emoji-benchmark@2"):
    before, after = {"count": 10, "hits": 10}, {"count": 10, "hits": hits}
    measured = [
        {"metric": "presence", "role": "erased", "concept": None, "before": before, "after": after},
        {"metric": "presence", "role": "kept", "concept": None, "before": before, "after": before},
    ]
    request = {"erasures": [{"concept": {"name": concept, "kind": "object"}}]}
    return {
        "suite": suite,
        "verdict": "valid",
        "submitted": name,
        "measurements": measured,
        "provenance": {"method": "uce", "seed": 0, "request": request},
        "erase_seconds": 2.0,
    }


def written(folder, name, one):
    path = folder / "leaderboard" / name / f"{one['provenance']['seed']}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(one))
    return path.parent


def test_rows_are_sorted_by_what_is_left_and_say_what_undid_them(tmp_path):
    written(tmp_path, "worse", row("worse", 5))
    best = written(tmp_path, "best", row("best", 0))
    written(tmp_path, "tried", row("tried", 0, suite="emoji-short@2"))
    cell = {"concept": "pistol", "verdict": "valid"}
    cells = [
        {**cell, "attack": "hard_prompt", "access": "text", "failure_rate": [1, 4]},
        {**cell, "attack": "other_seeds", "access": "text", "failure_rate": [0, 4]},
        {**cell, "attack": "relearning", "access": "weights", "failure_rate": [0, 3]},
        {**cell, "attack": "stacking", "access": "weights", "failure_rate": None},
    ]
    (best / "attacks.json").write_text(json.dumps({"cells": cells}))
    readme_tables._parsed.cache_clear()
    first, second = [line for line in leaderboard_page.page(tmp_path).splitlines() if "→" in line][
        -2:
    ]
    assert first.startswith("| best | 1 | 100.0 → 0.0 [0.0, 27.8] | 100.0 → 100.0 [72.2, 100.0] |")
    assert first.endswith("| 1/4 (hard prompt) | - | 0/3 (1 tried) | 2.0 |")
    assert second.startswith("| worse | 1 | 100.0 → 50.0")
    assert "tried |" not in leaderboard_page.page(tmp_path)


@pytest.mark.slow
def test_a_delta_file_and_a_method_get_their_rows(tmp_path, monkeypatch, delta):
    monkeypatch.chdir(tmp_path)
    delta.save(tmp_path / "mine.safetensors")
    submit.run(["mine.safetensors", "--name", "mine", "--size", "short"], tmp_path / "rows")
    submit.run(["uce", "--concepts", "pistol", "--size", "short"], tmp_path / "rows")
    mine, uce = (
        json.loads((tmp_path / "rows" / name / "pistol-0.json").read_text())
        for name in ("mine", "uce")
    )
    assert (mine["verdict"], mine["submitted"]) == ("valid", "mine")
    assert mine["measurements"] == uce["measurements"]
    assert uce["erase_seconds"] > 0
