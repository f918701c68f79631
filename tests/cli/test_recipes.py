"""Recipes: a file of stages is the same as methods in turn with their settings, to the bit."""

import json

import pytest

from tests.cli.test_bad_input import refused

SMALL = {"steps": 3, "trajectories": 2, "keep_trajectories": 2, "sampling_steps": 3}
SMALL |= {"batch": 2, "keep_batch": 2}


def table(head, **settings):
    lines = (f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    return f"{head}\n{''.join(lines)}\n"


@pytest.fixture
def written(tmp_path):
    """Writes a recipe; gives its path."""

    def write(*tables):
        file = tmp_path / "recipe.toml"
        file.write_text("".join(tables), encoding="utf-8")
        return file

    return write


@pytest.fixture
def erase(efface, tmp_path):
    """Erases without measuring; gives the outcome and the run's folder."""

    def run(method, *flags, out):
        plain = ("--concept", "pistol", "--no-evaluate", "--out", tmp_path / out)
        return efface("erase", method, *plain, *flags), tmp_path / out

    return run


def assert_same(first, second):
    """Deltas are named by a hash of all their tensors and settings."""
    records = [json.loads((folder / "run.json").read_text("utf-8")) for folder in (first, second)]
    assert records[0]["delta"] == records[1]["delta"]
    assert records[0]["settings"] == records[1]["settings"]
    assert records[0]["recipe"] == records[1]["recipe"]


@pytest.mark.slow
def test_a_recipe_is_the_same_stages_given_by_hand(efface, erase, written, tmp_path):
    recipe = written(
        table("[[stage]]", method="uce", ridge=1),
        table("[[stage]]", method="esd", preset="emoji", **SMALL),
        table("[[stage]]", method="uce", preset="paper-sd14-object", ridge=0.5),
    )
    hand = tmp_path / "hand.toml"
    hand.write_text(
        table("[uce]", ridge=1.0)
        + table("[esd]", preset="emoji", **SMALL)
        + table("[uce-2]", preset="paper-sd14-object", ridge=0.5)
    )
    outcome, by_file = erase(recipe, out="file")
    assert outcome.code == 0, outcome
    _, by_hand = erase("uce+esd+uce", "--settings", hand, out="hand")
    assert_same(by_file, by_hand)
    record = json.loads((by_file / "run.json").read_text("utf-8"))
    assert record["method"] == "uce+esd+uce"
    assert record["settings"]["uce"]["ridge"] == 1.0
    assert record["settings"]["uce-2"]["ridge"] == 0.5
    recipe.unlink()
    again = efface("rerun", by_file, "--json")
    assert again.json["equal"]


@pytest.mark.thorough
def test_a_recipe_of_one_stage_is_that_method(erase, written, model):
    toy = ("--model", model, "--keep", "cat")
    recipe = written(table("[[stage]]", method="rece", rounds=1, **{"keep-scale": 0.5}))
    _, by_file = erase(recipe, "--ridge", "0.2", *toy, out="file")
    by_flags = ("--rounds", "1", "--keep-scale", "0.5", "--ridge", "0.2")
    _, by_hand = erase("rece", *by_flags, *toy, out="hand")
    assert_same(by_file, by_hand)


@pytest.mark.slow
def test_an_interrupted_recipe_goes_on_to_the_same_bits(erase, written, tmp_path, monkeypatch):
    recipe = written(table("[[stage]]", method="uce"), table("[[stage]]", method="esd", **SMALL))
    _, whole = erase(recipe, out="whole")
    from efface.workbench import making

    plain = making.perform

    def stopped(*arguments, watch, **places):
        def stop(step, _, figures):
            if "erase" in figures and step == 1:
                raise KeyboardInterrupt

        return plain(*arguments, watch=lambda _: stop, **places)

    with monkeypatch.context() as patched:
        patched.setattr(making, "perform", stopped)
        outcome, _ = erase(recipe, out="run")
    assert outcome.code == 130
    assert f"efface erase {recipe}" in outcome.err
    outcome, resumed = erase(recipe, "--resume", "--preview", "3", out="run")
    assert outcome.code == 0, outcome
    assert {path.stem for path in (resumed / "previews").iterdir()} == {
        "base",
        "method-2-step-0003",
    }
    assert_same(whole, resumed)
    assert not (tmp_path / "run.checkpoint").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty; a recipe has a [[stage]] table for each method"),
        ("stage = []", "is empty"),
        ("[[stage]", "is not a TOML file"),
        ("ridge = 1.0", "has 'ridge', and a recipe has nothing but [[stage]] tables"),
        ("[stage]\nmethod = 'uce'", "has 'stage', and a recipe has nothing but [[stage]]"),
        ("[[stage]]\nridge = 1.0", "stage 1 of"),
        ("[[stage]]\nridge = 1.0", 'names no method; write a line like: method = "uce"'),
        ("[[stage]]\nmethod = 3", "names no method"),
        ("[[stage]]\nmethod = 'uce'\n[[stage]]\nmethod = 'ecd'", "stage 2 of"),
        ("[[stage]]\nmethod = 'ecd'", "no method called 'ecd'; did you mean esd"),
        ("[[stage]]\nmethod = 'uce+esd'", "no method called 'uce+esd'"),
        ("[[stage]]\nmethod = 'uce'\nridgge = 1.0", "--ridgge, 1.0; did you mean --ridge?"),
        ("[[stage]]\nmethod = 'uce'\nridge = 'much'", "ridge"),
        ("[[stage]]\nmethod = 'uce'\nridge = -1.0", "ridge"),
        ("[[stage]]\nmethod = 'uce'\npreset = 3", "no preset of uce called '3'"),
        (
            "[[stage]]\nmethod = 'uce'\n[[stage]]\nmethod = 'uce'\nrigde = 1.0",
            "stage uce-2: Unrecognized options: --rigde, 1.0; did you mean --ridge?",
        ),
    ],
)
def test_bad_recipes_are_refused(erase, written, text, told):
    outcome, out = erase(written(text), out="run")
    refused(outcome, told)
    assert not out.exists()


def test_a_recipe_stands_alone(efface, erase, written):
    outcome, _ = erase("none.toml", out="run")
    refused(outcome, "there is no recipe none.toml")
    recipe = written(table("[[stage]]", method="uce"), table("[[stage]]", method="esd"))
    for flag in ("--preset", "--settings"):
        outcome, _ = erase(recipe, flag, recipe, out="run")
        refused(outcome, "has the presets and settings of its stages; say them there")
    planned = efface("plan", recipe, "--concept", "cat", "--json").json
    assert [*planned["stages"]] == ["uce", "esd"]
