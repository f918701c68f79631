"""What every erasure must do, whatever the method: lines 1 to 5, 11, 12, 14, 16 and 17."""

import pytest
import torch

from efface import registry
from efface.concepts import ErasureRequest, wordings
from efface.contracts import Eraser
from efface.deltas.recording import model_name
from efface.errors import BadRequest, ModelCollapsed
from efface.hosts.components import components, find
from efface.runs.checks import inspect
from tests.cases import CASES
from tests.conformance.conftest import CLOSED, kinds
from tests.conftest import shared
from tests.reference.families import readers, relative_change


def test_the_model_is_left_bit_for_bit_as_found(ran):
    assert not ran.left_different


def test_the_global_random_state_is_not_touched(ran):
    assert not ran.global_states_used


@kinds(CLOSED, default=("uce-tiny_sd1", "rece-tiny_sd2", "trce-tiny_sd2", "realera-tiny_sd1"))
def test_the_same_seed_gives_the_same_delta(ran):
    """Of methods that train an interrupted run shows it: test_resuming."""
    again = ran.again().delta
    assert again.id == ran.result.delta.id
    for name, tensor in ran.result.delta.tensors().items():
        assert torch.equal(again.tensors()[name], tensor)


def test_only_declared_components_change(ran):
    assert isinstance(ran.method, Eraser)
    touched = {key.partition("/")[0] for key in ran.result.delta.keys}
    assert touched <= ran.method.edits


def test_every_declared_component_that_the_model_has_changes(ran):
    touched = {key.partition("/")[0] for key in ran.result.delta.keys}
    assert touched == ran.method.edits & set(components(ran.pipe))


def test_every_declared_component_is_in_some_case():
    for name in {case.method for case in CASES}:
        declared = registry.load("methods", name).edits
        hosts = [shared(case.host) for case in CASES if case.method == name]
        assert declared <= {part for each in hosts for part in components(each)}


def test_the_erased_concept_moves_more_than_kept_prompts(ran):
    seen = inspect(ran.pipe, ran.result.delta, ran.case.request)
    assert seen["erased_response"] > seen["kept_response"] > 0


def test_nothing_is_nan_and_the_budget_holds(ran):
    assert all(bool(t.isfinite().all()) for t in ran.result.delta.tensors().values())
    assert ran.processor_seconds < ran.case.seconds
    assert 0 < ran.result.seconds <= ran.seconds
    assert ran.result.peak_bytes > 0


def test_the_monitor_is_called_once_per_step_and_curves_have_that_length(ran):
    count = len(ran.steps)
    assert count > 0
    assert ran.steps == tuple((step, count) for step in range(count))
    assert ran.result.curves
    assert all(len(values) == count for values in ran.result.curves.values())


def test_the_golden_numbers_hold(ran):
    """Total relative change of all that reads text, of trained weights, or of what rows give."""
    if "erased_response" in ran.case.golden:
        seen = inspect(ran.pipe, ran.result.delta, ran.case.request)
        wanted = ran.case.golden["erased_response"]
        assert seen["erased_response"] == pytest.approx(wanted, rel=1e-4)
        return
    if "weight_change" in ran.case.golden:
        seen = inspect(ran.pipe, ran.result.delta, ran.case.request)
        assert seen["weight_change"] == pytest.approx(ran.case.golden["weight_change"], rel=1e-3)
        return
    family = ran.case.host.removeprefix("tiny_")
    before = readers(ran.pipe, family)
    with ran.result.delta.apply(ran.pipe):
        change = relative_change(before, readers(ran.pipe, family))
    assert change == pytest.approx(ran.case.golden["change"], rel=1e-4)


def test_provenance_says_what_was_done(ran):
    provenance = ran.result.delta.provenance
    assert provenance.method == ran.case.method
    assert provenance.revision == ran.method.revision
    assert provenance.base_model == model_name(ran.pipe)
    assert provenance.seed == 0
    for key in ran.result.delta.keys:
        assert set(find(ran.pipe, key)) <= provenance.base_sketch.keys()


WRECKED_BY_TWO = {("few_shot", "tiny_sdxl")}
"""Toys that the steps and rate of their case wreck when a second concept is asked for."""


@pytest.mark.thorough
@kinds(default=("uce-tiny_sd1", "trce-tiny_sd2", "doco-tiny_sd1", "realera_noise-tiny_sd1"))
def test_several_concepts_are_accepted_or_refused_clearly(ran):
    erasures = ran.case.request.erasures
    from efface.concepts import Concept, Erasure

    more = Erasure(concept=Concept(name="house"), anchor=erasures[0].anchor)
    both = ErasureRequest(erasures=(*erasures, more))
    generator = torch.Generator().manual_seed(0)
    try:
        delta = ran.method.erase(ran.pipe, both, generator=generator).delta
    except BadRequest as error:
        assert "one concept at a time" in str(error)
        return
    if (ran.case.method, ran.case.host) in WRECKED_BY_TWO:
        with pytest.raises(ModelCollapsed, match="raise retention_weight or keep more concepts"):
            inspect(ran.pipe, delta, both)
        return
    seen = inspect(ran.pipe, delta, both)
    assert seen["erased_response"] > seen["kept_response"]
    assert len(delta.provenance.request["erasures"]) == len(erasures) + 1
    assert wordings(both.erasures[-1].concept)
