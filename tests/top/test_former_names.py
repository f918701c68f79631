"""Modules that were renamed: scripts with the former names run, and are told the new ones."""

import importlib

import pytest

import efface.hosts.families
from efface.bundled.judge import EmojiJudge


def test_a_former_module_hands_out_what_its_successors_hold():
    with pytest.warns(FutureWarning, match=r"efface\.models\.tiny is efface\.hosts\.families and"):
        tiny = importlib.import_module("efface.models.tiny")
    assert tiny.tiny_stable_diffusion is efface.hosts.families.tiny_pipeline
    assert tiny.LENGTH == 24
    with pytest.warns(FutureWarning, match="efface.bundled.judge now"):
        assert importlib.import_module("efface.emoji.judge").EmojiJudge is EmojiJudge
    with pytest.raises(ImportError, match="nothing"):
        from efface.models.tiny import nothing  # noqa: F401


@pytest.mark.parametrize("name", ["efface.models.nothing", "efface.nothing", "efface.modelsx"])
def test_other_names_are_missing_as_ever(name):
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'"):
        importlib.import_module(name)
