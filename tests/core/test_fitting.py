"""Memory that runs out, on a network that refuses more samples than some."""

import re
from contextlib import contextmanager

import pytest
import torch

from efface.core.fitting import MemoryRanOut, in_parts
from tests.core.test_trajectories import pool_of
from tests.methods.trained import TO_LAMP, ran

BIG = {"batch": 8, "keep_batch": 12, "trajectories": 4, "keep_weight": 1.0, "steps": 2}


@contextmanager
def holding(network, *, learning=99, recomputing=99, still=99):
    """Lets a network of diffusers take only so many samples, fewer with gradients."""
    seen = []

    def check(_, inputs):
        count = len(inputs[0])
        again = any(getattr(part, "gradient_checkpointing", False) for part in network.modules())
        most = (recomputing if again else learning) if torch.is_grad_enabled() else still
        if count > most:
            raise torch.OutOfMemoryError(f"{count} samples are too many")
        seen.append(count)

    handle = network.register_forward_pre_hook(check)
    try:
        yield seen
    finally:
        handle.remove()


def test_parts_are_halved_until_they_fit_and_stay_so():
    def ask(some):
        rows = torch.arange(10)[some]
        if len(rows) > 3:
            raise torch.OutOfMemoryError
        return rows

    found, size = in_parts(ask, 10, 1000)
    assert found.tolist() == [*range(10)]
    assert size == 2
    assert in_parts(ask, 3, size)[1] == size
    with pytest.raises(MemoryRanOut, match="one sample"):
        in_parts(lambda _: ask(slice(None)), 10, 1000)


def test_a_pool_is_sampled_in_parts_where_it_does_not_fit(tiny_sd1):
    whole = pool_of(tiny_sd1)[2]
    with holding(tiny_sd1.unet, still=3) as seen:
        parts = pool_of(tiny_sd1)[2]
    assert max(seen) <= 3
    assert torch.allclose(parts.clean, whole.clean, atol=1e-5)
    assert torch.equal(parts.prompts, whole.prompts)


@pytest.mark.parametrize("method", ["esd", "doco", "spm", "trce_vision", "realera_noise"])
def test_a_step_that_does_not_fit_says_what_does_and_that_fits(tiny_sd1, method):
    big = BIG | ({"warm_up": 1} if method == "doco" else {})
    with holding(tiny_sd1.unet, learning=9), pytest.raises(MemoryRanOut) as caught:
        ran(method, tiny_sd1, TO_LAMP, **big)
    smaller, again = re.findall(r"(?:try|or) ([^()]+) \(tried: it fits\)", str(caught.value))
    assert again == "recompute=True"
    settings = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", smaller)}
    assert settings["accumulate"] * settings["batch"] == BIG["batch"]
    with holding(tiny_sd1.unet, learning=9):
        ran(method, tiny_sd1, TO_LAMP, **(big | settings))
        ran(method, tiny_sd1, TO_LAMP, **big, recompute=True)


def test_a_step_that_fits_by_itself_is_not_made_smaller(tiny_sd1):
    """Memory was short for a moment: another program had it."""
    steps = []

    def monitor(step, _, __):
        steps.append(step)
        tiny_sd1.unet.register_forward_pre_hook(short)

    def short(module, _):
        module._forward_pre_hooks.clear()
        raise MemoryError

    with pytest.raises(MemoryRanOut, match="again with more of it free"):
        ran("esd", tiny_sd1, **BIG, monitor=monitor)
    assert len(steps) == 1


def test_a_step_of_which_nothing_fits_says_so_and_leaves_the_weights(tiny_sd1):
    before = {key: weight.clone() for key, weight in tiny_sd1.unet.state_dict().items()}
    with holding(tiny_sd1.unet, learning=2, recomputing=2), pytest.raises(MemoryRanOut) as caught:
        ran("esd", tiny_sd1, **BIG)
    assert "a batch of 1 does not fit" in str(caught.value)
    after = tiny_sd1.unet.state_dict()
    assert all(torch.equal(after[key], weight) for key, weight in before.items())
    assert all(weight.grad is None for weight in tiny_sd1.unet.parameters())
