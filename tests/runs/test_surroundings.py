"""What surrounds a call, such as inference mode or another default type, changes no result."""

from contextlib import contextmanager

import pytest
import torch

import efface
from efface.randomness import as_usual

TOY = {"batch": 2, "sampling_steps": 3, "trajectories": 2, "keep_weight": 0.0, "steps": 2}


@contextmanager
def default(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SURROUNDINGS = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: default(torch.float64),
    "bfloat16": lambda: default(torch.bfloat16),
}


def state():
    asked = (torch.is_inference_mode_enabled(), torch.is_grad_enabled())
    return (*asked, torch.is_autocast_enabled("cpu"), torch.get_default_dtype())


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_call_runs_as_usual_and_leaves_what_surrounds_it(name):
    usual = state()
    with SURROUNDINGS[name]():
        before = state()
        assert before != usual
        with as_usual():
            assert state() == usual
        with pytest.raises(KeyError), as_usual():
            raise KeyError
        assert state() == before
    assert state() == usual


@pytest.mark.thorough
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_erasures_and_guides_are_the_same_whatever_surrounds_them(tiny_sd1, name):
    def work():
        made = efface.erase(tiny_sd1, "pistol", keep=["cat"], method="esd", **TOY)
        parted = efface.guide("a_star", words=("cat", "dog"))
        return made.delta.id, efface.guided(tiny_sd1, parted, "a cat, a dog", steps=2).pixels

    usual = work()
    with SURROUNDINGS[name]():
        found = work()
    assert found[0] == usual[0]
    assert (found[1] == usual[1]).all()
