"""Runs each case once per session and hands out what came of it."""

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pytest
import torch

from efface import registry
from efface.concepts import request
from efface.deltas.delta import Delta
from efface.deltas.results import ErasureResult
from efface.training.settings import Training
from tests.cases import CASES, Case
from tests.conformance.snapshots import differences, snapshot
from tests.conftest import shared


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

    @property
    def trains(self) -> bool:
        """Whether it has steps that can be interrupted, or made fewer."""
        return isinstance(self.method, Training)

    def again(self) -> ErasureResult:
        """Runs the case once more."""
        return run(self.method, self.case, self.pipe)

    @cached_property
    def sibling(self) -> Delta:
        """Erases another concept from the same base."""
        return self._other()

    @cached_property
    def child(self) -> Delta:
        """Erases another concept on top of the case's own delta."""
        with self.result.delta.apply(self.pipe):
            return self._other()

    def _other(self) -> Delta:
        anchor = self.case.request.erasures[0].anchor
        case = replace(self.case, request=request("house", anchor=anchor, keep=["tree"]))
        method = replace(self.method, steps=4) if self.trains else self.method
        return run(method, case, self.pipe).delta


def run(method, case, pipe, *, seed=0, monitor=lambda *_: None):
    generator = torch.Generator().manual_seed(seed)
    return method.erase(pipe, case.request, generator=generator, monitor=monitor)


PARAMETERS = [
    pytest.param(case, marks=[pytest.mark.slow] if case.slow else [], id=case.name)
    for case in CASES
]
CLOSED = [each for each in PARAMETERS if "change" in each.values[0].golden]
TRAINED = [each for each in PARAMETERS if "weight_change" in each.values[0].golden]


@pytest.fixture(scope="session", params=PARAMETERS)
def ran(request):
    case = request.param
    method = registry.build("methods", case.method, **case.settings)
    pipe = shared(case.host)
    steps = []
    before, state = snapshot(pipe), torch.get_rng_state()
    start, start_processor = time.perf_counter(), time.process_time()
    result = run(method, case, pipe, monitor=lambda step, total, _: steps.append((step, total)))
    seconds = time.perf_counter() - start
    processor = time.process_time() - start_processor
    used = not torch.equal(state, torch.get_rng_state())
    left = tuple(differences(before, snapshot(pipe)))
    return Ran(case, method, pipe, result, seconds, processor, tuple(steps), left, used)
