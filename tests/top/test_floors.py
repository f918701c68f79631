"""The oldest versions that are allowed are those from which everything is right."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

TOLD = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
NEEDED = {
    "diffusers": "0.38",  # older ones run Python from a model folder
    "transformers": "5.6",  # older ones fill text encoders of newer folders with random weights
    "huggingface_hub": "1.5",  # what that transformers needs
    "peft": "0.18.2",  # what that transformers reads LoRA files with
}


@pytest.mark.parametrize("name", NEEDED)
def test_the_oldest_allowed_version_is_right(name):
    every = [*TOLD["dependencies"], *TOLD["optional-dependencies"]["lora"]]
    found = next(one for one in map(Requirement, every) if one.name == name)
    floors = [Version(each.version) for each in found.specifier if each.operator == ">="]
    assert floors
    assert max(floors) >= Version(NEEDED[name])
