"""The measurement of composition: what is asked, how a picture is counted, rows that are kept."""

import json

import torch
from benchmarks.composition import Wanted, asked, grid, outcomes, ways

from benchmarks import composition
from efface.bundled.vocabulary import TWO_OBJECT
from efface.guiding.words import subjects


def test_prompts_of_tuning_are_not_measured_and_held_out_pairs_were_never_seen():
    measured, tuned = asked("emoji", 8, tuning=False), asked("emoji", 8, tuning=True)
    texts = [
        {each.prompt for kind in given.values() for each in kind} for given in (measured, tuned)
    ]
    assert len(texts[0]) == 16
    assert len(texts[1]) == 8
    assert not texts[0] & texts[1]
    assert {each.nouns for each in measured["pairs"]} <= {*TWO_OBJECT}
    assert not {each.nouns for each in (*measured["seen"], *tuned["seen"])} & {*TWO_OBJECT}


def test_every_prompt_says_its_nouns_so_that_guides_find_them():
    for given in (asked("emoji", 30, tuning=False), asked("emoji", 30, tuning=True)):
        for wanted in (each for kind in given.values() for each in kind):
            assert subjects([wanted.prompt], wanted.nouns) == [wanted.nouns]


def test_guides_of_every_way_are_built():
    wanted = Wanted("a cat and a dog", ("cat", "dog"))
    for model in composition.MODELS:
        made = [way.guides(wanted) for way in (*ways(model), *grid(model))]
        assert [len(each) for each in made].count(0) == 1
        alone = [(g.segregation, g.retention) for g, *_ in made[1:4]]
        assert alone == [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)]


def test_a_picture_is_counted_by_what_the_judge_sees_in_it():
    wanted = [Wanted("", ("cat", "dog")), Wanted("", ("car", "tree"))]
    seen = [{"cat", "dog", "sun"}, {"cat"}, {"moon"}, {"car", "tree"}]
    found = list(outcomes(wanted, [frozenset(each) for each in seen]))
    assert [each["all"] for each in found] == [1.0, 0.0, 0.0, 1.0]
    assert [each["share"] for each in found] == [1.0, 0.5, 0.0, 1.0]
    assert [round(each["fit"], 3) for each in found] == [0.667, 0.5, 0.0, 1.0]


def test_a_row_replaces_the_one_of_the_same_way_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(composition, "RESULTS", tmp_path / "rows.json")
    told = {"all_present": 0, "fit": 0, "evaluations": 0}
    head = {"model": "emoji", "prompts_of": "pairs", "purpose": "measured", "way": "plain"}
    for settings, value in (({}, 1), ({"a": 2}, 2), ({}, 3)):
        composition._write(head | {"settings": settings}, told | {"value": value}, "emoji")
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["value"] for row in rows] == [2, 3]


def test_operations_of_both_directions_are_counted():
    weight = torch.ones(3, 5)
    rows = torch.ones(2, 3, requires_grad=True)
    with composition._Operations() as forward:
        product = rows @ weight
    with composition._Operations() as backward:
        torch.autograd.grad(product.sum(), rows)
    assert forward.total == 2 * 2 * 3 * 5
    assert backward.total == 2 * 2 * 5 * 3
