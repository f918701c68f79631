"""One step of training at the true size of Stable Diffusion 1.5, with what it takes on record."""

import pytest
from benchmarks.methods import TRAINED
from benchmarks.processes import took


@pytest.mark.slow
@pytest.mark.parametrize("method", TRAINED)
def test_one_step_works(method, record_property):
    found = took("benchmarks.true_size", method, threads=1)
    record_property("took", found)
    assert found["changed"] > 0
    assert found["peak_bytes"] > found["model_bytes"]


@pytest.mark.slow
def test_computing_activations_twice_saves_memory(record_property):
    plain, twice = (
        took("benchmarks.true_size", "esd", *more, threads=1) for more in ((), ("--recompute",))
    )
    record_property("took", [plain, twice])
    assert plain["changed"] == twice["changed"]
    assert twice["peak_bytes"] < plain["peak_bytes"]
