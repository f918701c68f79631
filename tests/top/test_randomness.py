"""Randomness by seed and purpose; parameters put back; what ran is on record."""

import subprocess

import numpy as np
import pytest
import torch

from efface.errors import BadRequest
from efface.randomness import derive, environment, noise_like, split, whole
from efface.training.parameters import chosen, training


def first(generator):
    return int(torch.randint(2**40, (1,), generator=generator))


def test_seed_and_purpose_decide_a_generator():
    assert first(derive(1, "noise", 3)) == first(derive(1, "noise", 3))
    others = {first(derive(*key)) for key in [(1, "noise", 3), (2, "noise", 3), (1, "noise", 4)]}
    assert len(others) == 3


def test_another_purpose_shifts_none_of_the_others():
    few = split(derive(0), "noise", "steps")
    more = split(derive(0), "masks", "noise", "steps")
    assert {name: first(few[name]) for name in few} == {name: first(more[name]) for name in few}
    assert first(split(derive(0), "noise")["noise"]) != first(split(derive(1), "noise")["noise"])


def test_noise_is_the_same_in_every_dtype():
    like = torch.zeros(3, 4)
    wide = noise_like(like.double(), derive(0))
    assert torch.equal(noise_like(like, derive(0)), wide.float())
    assert torch.equal(noise_like(like.half(), derive(0)), wide.half())
    assert wide.std() > 0.3


def test_the_environment_names_versions_and_the_commit():
    found = environment()
    assert found.versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    assert found.commit in ("", head)


def test_parameters_come_back_bit_for_bit_also_after_an_error(tiny_sd1):
    weights = chosen(tiny_sd1, "key_value", "text_mlp")
    before = {
        key: (weight.detach().clone(), weight.requires_grad) for key, weight in weights.items()
    }
    pointers = {key: weight.data_ptr() for key, weight in weights.items()}
    with pytest.raises(ZeroDivisionError), training(tiny_sd1, weights):
        with torch.no_grad():
            for weight in weights.values():
                weight.mul_(1.1)
        raise ZeroDivisionError
    assert {key: weight.data_ptr() for key, weight in weights.items()} == pointers
    for key, weight in weights.items():
        assert torch.equal(weight, before[key][0])
        assert weight.requires_grad is before[key][1]


def test_an_unknown_or_empty_role_is_refused(tiny_sd1):
    with pytest.raises(BadRequest, match="no role 'attentive'"):
        chosen(tiny_sd1, "attentive")


def test_whole_numbers_of_any_kind_are_seeds_and_nothing_else_is():
    for seed in (3, np.int64(3), torch.tensor(3), True + 2):
        assert type(whole(seed)) is int
        assert whole(seed) == 3
    for seed in ("3", 3.0, None, 2**63, -(2**64)):
        with pytest.raises(BadRequest, match="give a whole number of at most 63 bits"):
            whole(seed)
