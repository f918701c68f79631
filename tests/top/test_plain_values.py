"""Settings and places are of their types, or refused in one line that names them."""

import math
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from efface import registry
from efface.concepts import request
from efface.errors import BadRequest
from efface.files import write_atomically
from efface.hosts.loading import load
from efface.hosts.streaming import stream
from efface.plain_values import place, plain
from efface.runs.workspace import Workspace


@pytest.mark.parametrize(
    ("hint", "given", "read"),
    [
        (int, np.int64(3), 3),
        (float, np.float32(0.5), 0.5),
        (float, torch.tensor(0.5), 0.5),
        (float, 3, 3),
        (float, math.inf, math.inf),
        (bool, np.True_, True),
        (str, np.str_("cat"), "cat"),
        (int | None, None, None),
        (float | None, np.float64(2), 2.0),
        (tuple[str, ...], ["cat"], ("cat",)),
        (tuple[float, float], (np.float32(0.5), 1), (0.5, 1)),
        (Literal["a", "b"], "a", "a"),
        (Path, "x", Path("x")),
        (dict, {}, {}),
    ],
)
def test_values_of_other_kinds_of_numbers_become_plain(hint, given, read):
    found = plain("it", given, hint)
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize(
    ("hint", "given", "wanted"),
    [
        (int, True, "a whole number"),
        (int, 1.0, "a whole number"),
        (int, "1", "a whole number"),
        (float, None, "a number"),
        (float, "1", "a number"),
        (float, True, "a number"),
        (float, math.nan, "a number"),
        (float, [1], "a number"),
        (bool, 1, "True or False"),
        (str, 3, "text"),
        (int | None, "x", "a whole number"),
        (tuple[str, ...], "cat", "several are wanted"),
        (tuple[str, ...], ("cat", 3), "text"),
        (tuple[float, float], (1.0,), "2 values"),
        (Literal["a", "b"], ["a"], "choose one of: a, b"),
        (Path, 3, "name of a file or folder"),
    ],
)
def test_values_of_other_types_are_refused_by_the_setting(hint, given, wanted):
    with pytest.raises(BadRequest, match=f"^it is .*{wanted}|^the path is"):
        plain("it", given, hint)


@pytest.mark.parametrize(
    ("kind", "name", "settings"),
    [
        ("methods", "uce", {"erase_scale": "1"}),
        ("methods", "esd", {"steps": True}),
        ("guides", "sld", {"concepts": "pistol"}),
        ("guides", "a_star", {"words": "cat"}),
        ("attacks", "other_seeds", {"preset": 3}),
    ],
)
def test_everything_that_is_built_by_name_checks_its_settings(kind, name, settings):
    with pytest.raises(BadRequest, match=f"^{next(iter(settings))} is "):
        registry.build(kind, name, **settings)


@pytest.mark.parametrize(
    "name", [None, 3, b"x", "", [], "a\0b", "\ud800", "x" * 300, f"a/{'x' * 300}/b"]
)
def test_what_no_file_can_be_called_is_refused_before_it_is_looked_up(name):
    for look in (
        lambda: place("it", name),
        lambda: load(name),
        lambda: stream(name),
        *([lambda: Workspace(cache=name)] if isinstance(name, str) else []),
    ):
        with pytest.raises(BadRequest, match=r"name of a file or folder|can have that name"):
            look()


@pytest.mark.parametrize("name", [".", "/", "..", "x" * 255, Path("a/b c/\U0001f600")])
def test_what_a_file_can_be_called_is_taken(name):
    assert place("it", name) == Path(name)


@pytest.mark.parametrize("settings", [{"dtype": "float16"}, {"dtype": torch.int8}, {"device": ""}])
def test_numbers_and_devices_that_there_are_not_are_refused_before_loading(settings):
    with pytest.raises(BadRequest, match=f"^{next(iter(settings))} is "):
        load("emoji", **settings)


@pytest.mark.parametrize("concepts", [{"pistol": "cat"}, {"pistol"}, b"pistol"])
def test_what_has_no_order_or_would_lose_something_names_no_concepts(concepts):
    with pytest.raises(BadRequest, match="names no concepts; give text or a list of it"):
        request(concepts)


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadRequest, match="a device or a pipe, and those are not replaced"):
        write_atomically(tmp_path / "pipe", b"")
    assert (tmp_path / "pipe").is_fifo()
