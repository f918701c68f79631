"""Memory that runs out, on a network that refuses more samples than some."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from efface.memory import MemoryRanOut, in_parts, peak_resident_bytes
from tests.diffusion.test_trajectories import pool_of
from tests.methods.trained import TO_LAMP, ran

BIG = {"batch": 8, "keep_batch": 12, "trajectories": 4, "keep_weight": 1.0, "steps": 2}


@contextmanager
def holding(network, *, learning=99, still=99):
    """Lets a network of diffusers take only so many samples, fewer with gradients."""
    seen = []

    def check(_, inputs):
        count = len(inputs[0])
        most = learning if torch.is_grad_enabled() else still
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
    assert torch.equal(parts.prompt_index, whole.prompt_index)


@pytest.mark.thorough
def test_a_step_that_does_not_fit_names_settings_that_need_less(tiny_sd1):
    before = {key: weight.clone() for key, weight in tiny_sd1.unet.state_dict().items()}
    with holding(tiny_sd1.unet, learning=9), pytest.raises(MemoryRanOut) as caught:
        ran("esd", tiny_sd1, **BIG)
    words = str(caught.value)
    assert "20 samples are too many" in words
    assert "try --batch 4 --keep-batch 6 --accumulate 2 or --recompute true or" in words
    after = tiny_sd1.unet.state_dict()
    assert all(torch.equal(after[key], weight) for key, weight in before.items())
    with holding(tiny_sd1.unet, learning=10):
        ran("esd", tiny_sd1, TO_LAMP, **(BIG | {"batch": 4, "keep_batch": 6, "accumulate": 2}))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux counts it")
def test_the_peak_is_of_this_process_alone():
    """A child's ``ru_maxrss`` begins with what its parent held; this one is that of the child."""
    ballast = bytearray(300_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    assert peak_resident_bytes() > len(ballast)
    code = "from efface.memory import peak_resident_bytes as peak; print(peak())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(ran.stdout) < peak_resident_bytes() - len(ballast) / 2
