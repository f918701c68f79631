"""Recipes are written and read back as they were, and their commands are read as the same."""

import shlex
from dataclasses import fields
from typing import get_args, get_type_hints

import pytest

from efface import registry
from efface.cli import importing
from efface.cli.choosing import choose
from efface.cli.debias import read_flags
from efface.cli.debias import recipe_for as debias_recipe
from efface.cli.erase import Erase
from efface.cli.shell import parse
from efface.concepts import Concept, Erasure, ErasureRequest, request
from efface.errors import BadRequest
from efface.runs.recipe import (
    DebiasRecipe,
    EraseRecipe,
    ImportRecipe,
    LedgerEntry,
    LedgerRecipe,
    StagesRecipe,
    TransferRecipe,
)
from efface.runs.recipe_records import recipe_from
from efface.runs.words import flags_of, understood

BASE = {"model": "./a folder", "request": request("pistol"), "seed": 3}


def read(command):
    """Reads a printed command as the verb does, up to its recipe."""
    efface, verb, *words = shlex.split(command)
    assert efface == "efface"
    if verb == "erase":
        options, choice = choose(words[0], words[1:], Erase)
        return choice.recipe(options.model, options.request(), options.seed)
    if verb == "import":
        return importing.recipe_for(parse(importing.Import, words, prog="", description=""))
    assert verb == "debias"
    return debias_recipe(*read_flags(words))


def again_from(recipe):
    return recipe_from({"recipe": recipe.written()})


def assert_exact(recipe):
    assert again_from(recipe) == recipe
    assert read(recipe.command()) == recipe


def another(found, field, default):
    """Gives a value of a setting other than its default, if one comes to mind."""
    options = get_args(get_type_hints(found)[field.name])
    if isinstance(default, bool):
        return not default
    if isinstance(default, str):
        if options:
            return next(one for one in options if one != default)
        return 'it\'s "so" $HOME; --ridge 3'
    if isinstance(default, tuple) and options[0] is int:
        return (2, -1)
    if isinstance(default, tuple) and get_args(options[0]):
        return (get_args(options[0])[-1],)
    if isinstance(default, tuple):
        return ("", "two words", "it's") if not default or default == ("",) else (0.25, 0.75)
    return default + (1 if isinstance(default, int) else 0.125)


METHODS = [
    name for name in registry.list_methods() if hasattr(registry.load("methods", name), "erase")
]


@pytest.mark.thorough
@pytest.mark.parametrize("name", METHODS)
def test_the_command_of_every_method_is_read_as_its_recipe(name):
    """With a preset and another value of every setting that goes with the others, and with none."""
    found = registry.load("methods", name)
    preset = next(iter(found.presets()))
    start, settings = registry.build("methods", name, preset=preset), {}
    for field in fields(found):
        value = another(found, field, getattr(start, field.name))
        try:
            registry.build("methods", name, preset=preset, **settings, **{field.name: value})
        except BadRequest:  # out of range, or not with the other settings
            continue
        settings[field.name] = value
    assert len(settings) > len(fields(found)) / 2
    assert_exact(EraseRecipe(**BASE, method=name, preset=preset, settings=settings))
    assert_exact(EraseRecipe(**BASE, method=name))


def test_what_a_flag_cannot_say_is_repeated_from_the_record():
    assert flags_of({"always_keep": ("-x", "y")}) is None
    assert flags_of({"rank": None, "scale": -0.5}) == ["--rank", "None", "--scale=-0.5"]
    recipe = EraseRecipe(**BASE, method="uce", settings={"always_keep": ("-x", "y")})
    assert recipe.command("out") == "efface rerun run.json --out out"
    images = ErasureRequest(erasures=(Erasure(concept=Concept(name="pistol", prompts=("x",))),))
    own = EraseRecipe(**{**BASE, "request": images}, method="uce")
    assert own.command() == "efface rerun run.json --out runs/again"
    assert again_from(own) == own


STYLE = {"kind": "style"}


@pytest.mark.parametrize(
    "wanted",
    [
        request("pistol", keep=["cat", 'it\'s a "dog"'], anchor="a lamp"),
        request(["van gogh", "-monet"], kind="style", keep=["--keep"], anchor="art"),
        request("pistol", keep=[Concept(name="van gogh", **STYLE)]),
        request("van gogh", kind="style", keep=[Concept(name="cat")]),
        request(Concept(name="pistol", synonyms=("gun", "=a=b", "it's"))),
        request([Concept(name="a", synonyms=("b",)), Concept(name="a=c", synonyms=("d",))]),
        request(Concept(name="Ana", kind="person", synonyms=("An",)), keep=["Bo"], kind="person"),
    ],
)
@pytest.mark.parametrize("model", ["emoji", "./sd 15"])
def test_every_request_of_plain_words_is_written_as_flags(wanted, model):
    both = {"model": model, "request": understood(wanted, model), "seed": 2**40}
    for method in ("uce", "esd"):
        preset = "emoji" if model == "emoji" else None
        assert_exact(EraseRecipe(**both, method=method, preset=preset))
    if wanted.erasures[0].anchor is None:
        settings = {"part": "text_encoder", "gate": "official", "unconditional": "same"}
        plain = {name: both[name] for name in ("model", "request")}
        assert_exact(ImportRecipe(**plain, file="a file.pt", **settings))


def test_a_bundled_keep_set_is_not_spelled_out():
    recipe = EraseRecipe(
        model="emoji", request=understood(request("gun"), "emoji"), method="rece", preset="emoji"
    )
    assert len(recipe.request.keep) > 30
    assert "--keep" not in recipe.command()
    assert_exact(recipe)


def test_stages_have_flags_of_their_own():
    settings = {
        "uce": {"preset": "paper-sd14-object", "ridge": 0.25},
        "spm": {"calibrated": True, "unconditional": "same"},
        "uce-2": {"always_keep": ("", "a cat")},
    }
    recipe = StagesRecipe(**BASE, method="uce+spm+uce", settings=settings)
    assert "--uce-2.always-keep '' 'a cat'" in recipe.command()
    assert_exact(recipe)
    assert recipe.parts["uce"].preset == "paper-sd14-object"


def test_debiasing_is_read_back():
    words = ["--concept", "cat", "--attributes", "a dog's", "sepia", "--shares", "0.25", "0.75"]
    words += ["--out", "x", "--judge", "zero_shot", "--judge-folder", "a b", "--keep", "dog"]
    for model in ("emoji", "./folder"):
        recipe = debias_recipe(*read_flags([*words, "--model", model]))
        assert isinstance(recipe, DebiasRecipe)
        assert_exact(recipe)


def test_ledgers_and_transfers_are_written_and_read():
    entries = (LedgerEntry(id="a", weight=2.0, erasures=(0, 1)),)
    plain = {name: BASE[name] for name in ("model", "request")}
    ledger = LedgerRecipe(**plain, ledger="book", entries=entries, settings={"ridge": 0.5})
    assert again_from(ledger) == ledger
    assert ledger.command("x") == "efface ledger erase book --model './a folder' --out x"
    carried = TransferRecipe(**plain, method="esd", run="a run", delta="0f")
    assert again_from(carried) == carried
    assert carried.command("x") == "efface transfer 'a run' --model './a folder' --out x"


def test_a_header_holds_no_place_of_a_machine():
    record = {"base_model": "folder", "settings": {"ridge": 1.0}, "method": "uce", "seed": 3}
    record["request"] = EraseRecipe(**BASE, method="uce").written()["request"]
    recipe = EraseRecipe(**BASE, method="uce", settings={"ridge": 1.0})
    noted = recipe.noted()
    assert "a folder" not in str(noted)
    assert recipe_from({**record, "recipe": noted}).settings == recipe.settings


OLD = {
    "method": "uce",
    "seed": 1,
    "request": EraseRecipe(**BASE, method="uce").written()["request"],
}
OLD |= {"settings": {"ridge": 0.5, "erase_scale": 1.0}, "base_model": "tiny"}


@pytest.mark.parametrize(
    ("record", "kind", "facts"),
    [
        (
            {"preset": None, "settings_given": ["ridge"]},
            EraseRecipe,
            {"settings": {"ridge": 0.5}, "model": "tiny"},
        ),
        (
            {"recipe": {"model": "x/y", "preset": "p", "settings": {}}},
            EraseRecipe,
            {"preset": "p", "settings": {}, "model": "x/y"},
        ),
        (
            {"method": "uce+esd", "recipe": {"preset": None, "settings": {"esd": {"steps": 3}}}},
            StagesRecipe,
            {"settings": {"uce": {}, "esd": {"steps": 3}}},
        ),
        ({"method": "import", "settings": {"file": "a.pt"}}, ImportRecipe, {"file": "a.pt"}),
        ({"made_on": "tiny"}, TransferRecipe, {"run": "", "method": "uce"}),
        ({"diagnostics": {"entries": 2}}, LedgerRecipe, {"entries": (), "ledger": ""}),
        (
            {"method": "debias", "recipe": {"settings": {"judge": "j", "judge_folder": None}}},
            DebiasRecipe,
            {"judge": "j", "settings": {}},
        ),
    ],
)
def test_records_of_before_are_read(record, kind, facts):
    found = recipe_from({**OLD, **record})
    assert type(found) is kind
    assert {name: getattr(found, name) for name in facts} == facts
    assert again_from(found) == found


def test_a_built_method_is_written_as_it_differs_from_what_is_usual():
    uce = registry.load("methods", "uce")
    for model in ("", "emoji"):
        made = EraseRecipe.of(uce(ridge=2.0), model=model, request=BASE["request"], seed=0)
        assert made.build() == uce(ridge=2.0)
    assert made.preset == "emoji"


def test_a_preset_that_has_changed_since_does_not_matter():
    recipe = EraseRecipe(**BASE, method="rece", preset="emoji", settings={"rounds": 1})
    then = {**vars(recipe.build()), "ridge": 7.0}
    again = recipe.restated(then)
    assert (again.preset, again.settings) == ("emoji", {"rounds": 1, "ridge": 7.0})
    assert vars(again.build()) == then
    gone = EraseRecipe(**BASE, method="rece", preset="gone").restated(then)
    assert (gone.preset, vars(gone.build())) == (None, then)


def test_restated_stages_stand_on_the_same_run_and_pictures():
    beside = {"after": "runs/first", "pictures": {"icons": "ab"}, "delta_scale": 0.5}
    recipe = StagesRecipe(**BASE, **beside, method="uce+esd", settings={"uce": {"ridge": 2.0}})
    made = {name: vars(part.build()) for name, part in recipe.parts.items()}
    again = recipe.restated(made)
    assert {name: getattr(again, name) for name in beside} == beside
    assert "--after runs/first" in again.command()
    assert again.parts["uce"].build() == recipe.parts["uce"].build()


def test_where_a_run_was_made_is_said_where_it_was_asked_for():
    asked = {"device": "cuda:1", "dtype": "bfloat16", "config": "sd15 configs"}
    recipe = EraseRecipe(**BASE, **asked, method="uce")
    assert again_from(recipe) == recipe
    words = "--device cuda:1 --dtype bfloat16 --config 'sd15 configs' --out"
    assert words in recipe.command()
    assert recipe.noted()["dtype"] == "bfloat16"
    assert not {"device", "config"} & recipe.noted().keys(), "a delta names no place"
    plain = EraseRecipe(**BASE, method="uce")
    assert not asked.keys() & plain.written().keys()


def test_methods_know_their_names_and_what_settings_help():
    for name in METHODS:
        found = registry.load("methods", name)
        assert found().name == name
        ways = (*found.weakened_by, *found.strengthened_by)
        named = {advice.split()[-1] for advice in ways}
        assert named <= {field.name for field in fields(found)}, name
        assert found.weakened_by, name
        assert found.strengthened_by, name
