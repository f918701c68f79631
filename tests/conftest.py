"""Toy hosts, shape checks in the rooms of numerics, and a watch on the global random state."""

import gc
from functools import cache

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

ROOMS = ("deltas", "closed_form", "text", "diffusion", "training", "runs", "selection", "guiding")
install_import_hook([f"efface.{room}" for room in ROOMS], "beartype.beartype")

WATCHED = (*ROOMS, "data", "hosts", "methods", "guides", "searches", "conformance", "top")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Gives each worker tests that follow one another, which share fixtures of the session."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_collection_finish():
    """Leaves what was imported out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def global_randomness_untouched(request):
    """Fails a test whose code drew from, or seeded, the random state of torch or NumPy.

    Python's own state cannot be watched: beartype draws from it to pick the items it checks.
    """
    if not any(f"tests/{folder}/" in str(request.path) for folder in WATCHED):
        yield
        return
    before = _global_state()
    yield
    used = [name for name, state in _global_state().items() if state != before[name]]
    assert not used, f"the global random state of {used} was used; pass a generator"


def _global_state():
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (kind, keys.tolist(), *rest),
    }


@pytest.fixture(scope="session")
def tiny_sd1():
    """A toy pipeline in the layout of SD 1.x; tests leave it as they found it."""
    return shared("tiny_sd1")


@pytest.fixture(scope="session")
def tiny_sd2():
    """A toy pipeline in the layout of SD 2.x; tests leave it as they found it."""
    return shared("tiny_sd2")


@pytest.fixture(scope="session")
def tiny_double():
    """A toy pipeline in float64, for comparisons to rounding."""
    return shared("tiny_sd1", dtype=torch.float64)


@cache
def shared(name, *, seed=0, dtype=torch.float32):
    """Gives the toy host that all tests of a session share, and leave as they found it."""
    return host(name, seed=seed, dtype=dtype)


def host(name, *, seed=0, dtype=torch.float32):
    """Builds a toy host by the name that a `Case` uses: ``tiny_<family>`` or with a variant.

    A variant is the same network with another schedule: ``tiny_sd2_v`` predicts v, and the times
    of ``tiny_flux_shifted`` depend on the size of the picture, as those of FLUX.1-dev do.
    """
    from efface.hosts.families import tiny_pipeline

    family, _, variant = name.removeprefix("tiny_").partition("_")
    pipeline = tiny_pipeline(family, seed=seed, dtype=dtype)
    if variant:
        held = pipeline.scheduler
        pipeline.scheduler = type(held).from_config(held.config, **VARIANTS[variant])
    return pipeline


VARIANTS = {
    "v": {"prediction_type": "v_prediction"},
    "shifted": {
        "use_dynamic_shifting": True,
        "base_image_seq_len": 4,
        "max_image_seq_len": 64,
        "base_shift": 0.5,
        "max_shift": 1.15,
    },
}
