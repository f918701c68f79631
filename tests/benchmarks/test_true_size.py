"""One step of training at the true size of Stable Diffusion 1.5, with what it takes on record."""

import json
import subprocess
import sys

import pytest

METHODS = ("esd", "concept_ablation", "all_but_one", "doco", "ant", "trce_vision")
METHODS += ("realera_noise", "spm")


def told(record, *arguments):
    command = [sys.executable, "-m", "benchmarks.true_size", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200)
    found = json.loads(ran.stdout.splitlines()[-1])
    record("took", found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_one_step_works(method, record_property):
    found = told(record_property, method)
    assert found["changed"] > 0
    assert found["peak_bytes"] > found["model_bytes"]


@pytest.mark.slow
def test_computing_activations_twice_saves_memory(record_property):
    plain = told(record_property, "esd")
    twice = told(record_property, "esd", "--recompute")
    assert plain["changed"] == twice["changed"]
    assert twice["peak_bytes"] < plain["peak_bytes"]
