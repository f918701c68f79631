"""Words that a bundled model was never taught, and methods that edit the very model, by name."""

import pytest

from efface import registry
from efface.bundled import weights_folder
from efface.concepts import request
from efface.hosts.vision_families import VISION
from efface.runs.recipe import EraseRecipe
from efface.workbench.measuring import untaught
from efface.workbench.models import methods_for

BUILT = (weights_folder() / "pipeline" / "model_index.json").exists()


def recipe(model, name):
    return EraseRecipe(model=model, request=request(name, keep=["cat"]), method="uce")


@pytest.mark.parametrize("model", registry.BUNDLED)
def test_every_bundled_model_knows_its_words(model):
    assert untaught(recipe(model, "pistol")) is None
    said = untaught(recipe(model, "pistl"))
    assert said == f"{model} was never taught pistl (did you mean pistol?)"
    assert untaught(recipe("./a-folder", "pistl")) is None


@pytest.mark.skipif(not BUILT, reason="the bundled model is not built yet: make emoji")
@pytest.mark.slow
@pytest.mark.parametrize("model", ["emoji", "emoji-scenes"])
@pytest.mark.parametrize("measure", [(), ("--no-evaluate",)])
def test_an_unknown_word_is_said_once(efface, tmp_path, model, measure):
    words = ("erase", "uce", "--model", model, *measure, "--concept")
    outcome = efface(*words, "pistl", "--keep", "cat", "--out", tmp_path / "one")
    assert outcome.code != 2, outcome
    told = [line for line in (outcome.out + outcome.err).splitlines() if "taught" in line]
    assert told == [f"{model} was never taught pistl (did you mean pistol?)"]


@pytest.mark.thorough
def test_a_model_that_reads_pictures_has_the_methods_of_its_kind():
    for model, kind in zip(registry.VISION, ("classifier", "recogniser", "detector"), strict=True):
        names = methods_for(model)
        for entry in registry.entries("methods"):
            families = registry.load("methods", entry.name).families
            assert (entry.name in names) == (kind in families)
    assert methods_for("icons-detector") == ["gs_lora"]
    drawing = methods_for("emoji")
    assert {"uce", "esd", "kernel_map"} <= {*drawing}
    assert not any(registry.load("methods", name).families <= VISION.keys() for name in drawing)
