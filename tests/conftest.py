"""Toy hosts, shape checks in the rooms of numerics, and a watch on the global random state."""

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

ROOMS = ("deltas", "closed_form", "text", "diffusion", "training", "runs")
install_import_hook([f"efface.{room}" for room in ROOMS], "beartype.beartype")

WATCHED = (*ROOMS, "hosts", "methods", "conformance", "top")


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
    return host("tiny_sd1")


@pytest.fixture(scope="session")
def tiny_sd2():
    """A toy pipeline in the layout of SD 2.x; tests leave it as they found it."""
    return host("tiny_sd2")


@pytest.fixture(scope="session")
def tiny_double():
    """A toy pipeline in float64, for comparisons to rounding."""
    return host("tiny_sd1", dtype=torch.float64)


def host(name, *, seed=0, dtype=torch.float32):
    """Builds a toy host by the name that a `Case` uses."""
    from efface.hosts.families import tiny_pipeline

    return tiny_pipeline(name.removeprefix("tiny_"), seed=seed, dtype=dtype)
