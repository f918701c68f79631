"""Runs each case once per session and hands out what came of it."""

import time
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import pytest
import torch

from efface import registry
from efface.concepts import request
from efface.deltas.delta import Delta
from efface.deltas.results import ErasureResult
from efface.training.settings import Training
from tests.cases import CASES, Case, closed, trained
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
CLOSED = [each for each in PARAMETERS if "weight_change" not in each.values[0].golden]
TRAINED = [each for each in PARAMETERS if "weight_change" in each.values[0].golden]


OURS = (*closed.CASES, *trained.CASES)
BROAD = ("uce-tiny_sd1", "spm-tiny_sd1")
"""Cases, by how their names begin, that by default show what is checked per kind of delta."""


def kinds(parameters=PARAMETERS, *, default=BROAD):
    """Parametrises over all cases, of which the slow tests run all but a few that stand for them.

    For checks of what methods share, such as their loop or the composition of their deltas. What
    another package adds runs them all.
    """
    for_each = [
        each
        if each.id.startswith(default) or each.values[0] not in OURS
        else pytest.param(*each.values, marks=[pytest.mark.slow], id=each.id)
        for each in parameters
    ]
    return pytest.mark.parametrize("ran", for_each, indirect=True)


@pytest.fixture(scope="session", params=PARAMETERS)
def ran(request):
    return came_of(request.param.name)


@cache
def came_of(name):
    """Runs a case; however tests of it are ordered, it runs once."""
    (case,) = (each for each in CASES if each.name == name)
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
