"""Runs each case once per session and hands out what came of it."""

import time
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from efface import registry
from efface.deltas.results import ErasureResult
from tests.cases import CASES, Case
from tests.conformance.snapshots import differences, snapshot
from tests.conftest import host


@dataclass(frozen=True)
class Ran:
    """One case and what its run did."""

    case: Case
    method: Any
    pipe: Any
    result: ErasureResult
    seconds: float
    processor_seconds: float
    steps: tuple[tuple[int, int], ...]
    left_different: tuple[str, ...]
    global_states_used: bool

    def again(self, pipe=None, *, seed=0):
        """Runs the case once more, on its own host or another."""
        return run(self.method, self.case, self.pipe if pipe is None else pipe, seed=seed)


def run(method, case, pipe, *, seed=0, monitor=lambda *_: None):
    generator = torch.Generator().manual_seed(seed)
    return method.erase(pipe, case.request, generator=generator, monitor=monitor)


PARAMETERS = [
    pytest.param(case, marks=[pytest.mark.slow] if case.slow else [], id=case.name)
    for case in CASES
]


@pytest.fixture(scope="session", params=PARAMETERS)
def ran(request):
    case = request.param
    method = registry.build("methods", case.method, **case.settings)
    pipe = host(case.host)
    steps = []
    before, state = snapshot(pipe), torch.get_rng_state()
    start, start_processor = time.perf_counter(), time.process_time()
    result = run(method, case, pipe, monitor=lambda step, total, _: steps.append((step, total)))
    seconds = time.perf_counter() - start
    processor = time.process_time() - start_processor
    used = not torch.equal(state, torch.get_rng_state())
    left = tuple(differences(before, snapshot(pipe)))
    return Ran(case, method, pipe, result, seconds, processor, tuple(steps), left, used)
