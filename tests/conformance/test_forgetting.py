"""What every method must do that makes a model which reads pictures forget."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch

from efface import registry
from efface.concepts import Concept, request
from efface.deltas.composition import compose, without
from efface.deltas.delta import Delta
from efface.errors import BadDelta, BadRequest
from efface.runs.checks import inspect
from efface.runs.erasing import erase
from tests.cases import FORGETTING_CASES
from tests.conformance.snapshots import differences, snapshot
from tests.pictures import accuracy, examples, fresh, knowing

GONE, LATER = 1, -1
"""Classes by number, the later one from behind."""


@dataclass(frozen=True)
class Ran:
    case: object
    method: object
    model: object
    result: object
    steps: tuple
    left_different: tuple
    used_global_state: bool


def asked(model, number=GONE, **more):
    """Asks to forget one class, by its name."""
    concept = Concept(name=model.labels[number], kind="class")
    return replace(request(concept), retain_data=examples(model), **more)


def run(method, model, wanted, seed=0, monitor=lambda *_: None):
    generator = torch.Generator().manual_seed(seed)
    return method.erase(model, wanted, generator=generator, monitor=monitor)


@cache
def came_of(name):
    (case,) = (each for each in FORGETTING_CASES if each.name == name)
    method = registry.build("methods", case.method, **case.settings)
    model = knowing(case.kind, case.architecture)
    before, state, steps = snapshot(model), torch.get_rng_state(), []
    result = run(method, model, asked(model), monitor=lambda n, total, _: steps.append((n, total)))
    used = not torch.equal(state, torch.get_rng_state())
    left = tuple(differences(before, snapshot(model)))
    return Ran(case, method, model, result, tuple(steps), left, used)


@pytest.fixture(params=FORGETTING_CASES, ids=lambda case: case.name)
def ran(request):
    return came_of(request.param.name)


def test_the_model_and_the_global_state_are_left_as_found(ran):
    assert not ran.left_different
    assert not ran.used_global_state


def test_the_class_is_forgotten_and_the_others_are_not(ran):
    pictures = examples(ran.model, seed=1)
    others = [number for number in range(len(ran.model.labels)) if number != GONE]
    with ran.result.delta.apply(ran.model):
        after, kept = accuracy(ran.model, pictures, [GONE]), accuracy(ran.model, pictures, others)
    assert accuracy(ran.model, pictures, [GONE]) > 0.9
    assert kept > 0.7
    if ran.case.gone:
        assert after <= 0.25


REPEATED = ("gs_lora-classifier", "random_labels-classifier", "last_layers-classifier")
"""Made more than once by default: with layers beside weights, by one loop, and drawn."""


some = pytest.mark.parametrize(
    "ran",
    [
        pytest.param(c, marks=[] if c.name in REPEATED else [pytest.mark.slow], id=c.name)
        for c in FORGETTING_CASES
    ],
    indirect=True,
)


@pytest.mark.thorough
@some
def test_the_same_seed_gives_the_same_delta_and_another_does_not(ran):
    again = run(ran.method, ran.model, asked(ran.model)).delta
    assert again.id == ran.result.delta.id
    other = run(ran.method, ran.model, asked(ran.model), seed=7).delta
    if ran.case.method != "selective_dampening":  # It looks at all pictures and draws nothing.
        assert other.id != again.id


def test_only_declared_components_change_and_all_is_finite(ran):
    delta = ran.result.delta
    assert {key.partition("/")[0] for key in delta.keys} == ran.method.edits
    assert all(bool(tensor.isfinite().all()) for tensor in delta.tensors().values())


def test_the_golden_number_holds(ran):
    seen = inspect(ran.model, ran.result.delta, asked(ran.model))
    assert seen["weight_change"] == pytest.approx(ran.case.change, rel=ran.case.within)


def test_steps_are_told_and_curves_are_as_long(ran):
    count = len(ran.steps)
    assert ran.steps == tuple((step, count) for step in range(count))
    assert all(len(values) == count for values in ran.result.curves.values())
    one_shot = ("influence", "selective_dampening")
    assert (count == 0) == (ran.case.method in one_shot)


def test_provenance_names_pictures_by_their_content_alone(ran):
    told = ran.result.delta.provenance
    assert told.method == ran.case.method
    for name in ("forget_data", "retain_data"):
        assert str(told.request[name]).startswith("sha256:")


def test_a_delta_survives_its_file_and_comes_off_exactly(ran, tmp_path):
    ran.result.delta.save(tmp_path / "delta.safetensors")
    back = Delta.load(tmp_path)
    assert back.id == ran.result.delta.id
    before = snapshot(ran.model)
    with back.apply(ran.model.model):  # the bare network has the same keys
        assert differences(before, snapshot(ran.model))
    assert not differences(before, snapshot(ran.model))


def test_another_model_is_refused(ran):
    other = type(vision_kind(ran))(ran.model).toy(seed=9)
    with pytest.raises(BadDelta):
        ran.result.delta.apply(other)


def vision_kind(ran):
    from efface.hosts.vision_families import vision_host

    return vision_host(ran.model)


@some
def test_requests_in_turn_add_up_and_one_can_be_revoked(ran):
    model = fresh(ran.case.kind, ran.case.architecture)
    first = ran.result.delta
    with first.apply(model):
        later = run(ran.method, model, asked(model, LATER)).delta
        assert later.provenance.parents == (first.id,)
        with pytest.raises(BadRequest, match="erased by an earlier request"):
            run(ran.method, model, asked(model))
        with later.apply(model):
            both = {key: weight.clone() for key, weight in model.model.named_parameters()}
    with compose([first, later]).apply(model):
        for key, weight in model.model.named_parameters():
            torch.testing.assert_close(weight, both[key], rtol=1e-4, atol=1e-5)
    alone = without([first, later], first.id)
    for key, tensor in later.tensors().items():
        assert torch.equal(alone.tensors()[key], tensor)


def test_the_second_of_four_requests_is_revoked_and_the_others_are_what_they_were():
    """Ids of the later ones change with their parents, so that all are renamed in turn."""
    method = registry.build("methods", "fine_tune", epochs=0.0, steps=1, batch=8)
    model, deltas = fresh(), []
    before = {key: weight.clone() for key, weight in model.model.named_parameters()}
    with ExitStack() as applied:
        for number in range(4):
            deltas.append(run(method, model, asked(model, number)).delta)
            applied.enter_context(deltas[-1].apply(model))
    with without(deltas, deltas[1].id).apply(model):
        for key, weight in model.model.named_parameters():
            wanted = before[key]
            for delta in (deltas[0], *deltas[2:]):
                wanted = wanted + delta.difference(f"model/{key}", before[key])
            torch.testing.assert_close(weight, wanted, rtol=1e-4, atol=1e-5)


def test_generators_and_models_that_read_pictures_are_not_mixed_up(ran, tiny_sd1):
    with pytest.raises(BadRequest, match="does not edit Stable Diffusion 1"):
        run(ran.method, tiny_sd1, request("pistol"))


def test_a_method_of_generators_refuses_a_classifier_by_name():
    model = knowing()
    for name in ("esd", "uce"):
        with pytest.raises(BadRequest, match=rf"{name} does not edit image classifiers; .*gs_lora"):
            erase(model, asked(model), method=name)


def test_every_method_that_forgets_has_a_case():
    kinds = {"classifier", "recogniser", "detector"}
    listed = {
        entry.name
        for entry in registry.entries("methods")
        if kinds & getattr(registry.load("methods", entry.name), "families", frozenset())
    }
    assert {case.method for case in FORGETTING_CASES} == listed
