"""Methods and cases match both ways; every method file keeps its side of the contract."""

import json
from dataclasses import fields, replace

import pytest
import torch

from efface import registry
from efface.concepts import request
from efface.contracts import Eraser
from efface.errors import BadRequest, EffaceError
from efface.runs.gradient_eraser import GradientEraser
from tests.cases import CASES, FORGETTING_CASES
from tests.conftest import host

METHODS = registry.list_methods()


def test_every_method_has_a_case_and_every_case_a_method():
    assert {case.method for case in (*CASES, *FORGETTING_CASES)} == set(METHODS)


def test_case_names_are_distinct():
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_states_its_facts(name):
    method = registry.load("methods", name)
    assert issubclass(method, Eraser)
    assert method.paper.title
    assert method.paper.arxiv
    assert method.revision >= 1
    assert method.edits


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_explained_and_has_a_default(name):
    entry = registry.find("methods", name)
    assert entry.summary.endswith(".")
    assert entry.doc
    assert {s.name for s in entry.settings} == {
        field.name for field in fields(registry.load("methods", name))
    }
    for setting in entry.settings:
        assert setting.doc, f"{setting.name} has no docstring"
        assert setting.default is not None, f"{setting.name} has no default"


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_in_the_help(name, capsys):
    from efface.cli.main import main

    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main(["erase", name, "--help"]))
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for setting in registry.find("methods", name).settings:
        assert setting.name.replace("_", "-") in shown


@pytest.mark.parametrize("name", METHODS)
def test_settings_and_presets_survive_json(name):
    method = registry.load("methods", name)
    assert method.presets(), "a method without presets has no published settings"
    for preset in (None, *method.presets()):
        made = registry.build("methods", name, preset=preset)
        written = json.loads(json.dumps(registry.settings_of(made)))
        assert registry.build("methods", name, **written) == made


@pytest.mark.parametrize("name", METHODS)
def test_a_setting_overrides_one_value_of_a_preset_and_no_other(name):
    number = a_number(name)
    for preset, method in registry.load("methods", name).presets().items():
        changed = registry.build("methods", name, preset=preset, **{number: 0.77})
        assert changed == replace(method, **{number: 0.77})


def a_number(name):
    """Names the first setting of a method that is a number with a point."""
    return next(s.name for s in registry.find("methods", name).settings if s.type == "float")


@pytest.mark.parametrize("name", METHODS)
def test_a_typo_in_a_setting_or_preset_is_answered_with_the_right_word(name):
    number = a_number(name)
    with pytest.raises(BadRequest, match=f"did you mean {number}"):
        registry.build("methods", name, **{number[:-1] + "_": 0.1})
    preset = next(iter(registry.load("methods", name).presets()))
    with pytest.raises(BadRequest, match=f"did you mean {preset}"):
        registry.build("methods", name, preset=preset[:-1] + "_")


def asked_for(name):
    """What a method needs beside prompts with its defaults, in the words of the refusal."""
    method = registry.build("methods", name)
    if isinstance(method, GradientEraser) and method.requires_anchor():
        return [f"{name} puts an anchor in the concept's place .* name one with --anchor"]
    return []


def test_the_methods_that_need_more_than_prompts_are_known():
    assert {name for name in METHODS if asked_for(name)} == {
        "all_but_one",
        "concept_ablation",
        "doco",
    }


@pytest.mark.parametrize("name", [name for name in METHODS if asked_for(name)])
def test_what_a_method_needs_is_asked_for_by_name(name, tiny_sd1):
    """A request without it is refused before any work: nothing is drawn, no step is reported."""
    steps, generator = [], torch.Generator().manual_seed(0)
    before = generator.get_state()
    with pytest.raises(EffaceError, match="|".join(asked_for(name))):
        registry.build("methods", name).erase(
            tiny_sd1, request("cat"), generator=generator, monitor=lambda *s: steps.append(s)
        )
    assert not steps
    assert torch.equal(generator.get_state(), before)


def test_half_precision_works_or_says_so():
    """Line 15: the model in float16 either erases or raises one of our errors."""
    pipe = host("tiny_sd1", dtype=torch.float16)
    for name in METHODS:
        method = registry.build("methods", name)
        if not {"sd1", "sd2"} & method.families:
            continue
        generator = torch.Generator().manual_seed(0)
        try:
            anchor = None if method.reads_pictures else "lamp"  # that one steers to no anchor
            wanted = request("pistol", anchor=anchor, keep=["cat"])
            result = method.erase(pipe, wanted, generator=generator)
        except EffaceError as error:
            assert "float32" in str(error)
            continue
        with result.delta.apply(pipe):
            assert all(bool(p.isfinite().all()) for p in pipe.unet.parameters())
