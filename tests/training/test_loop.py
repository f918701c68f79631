"""The loop: what it trains, when it stops, and what masks and averages leave."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from efface.deltas.recording import Recording
from efface.errors import BadModel, BadRequest, ModelCollapsed
from efface.memory import MemoryRanOut
from efface.training.loop import _factor, train
from efface.training.parameters import chosen, training
from tests.conftest import host
from tests.training.loops import GOAL, Settings, losses, ran


def test_it_descends_and_reports_every_term():
    weight, rows = ran(Settings(steps=200))
    assert (weight - GOAL).abs().max() < 0.1
    assert len(rows) == 200
    first, last = rows[0][1], rows[-1][1]
    assert first["loss"] == pytest.approx(first["near"] + first["small"])
    assert last["near"] < 0.1 * first["near"]


def test_accumulated_batches_are_averaged():
    twice, rows = ran(Settings(steps=1, accumulate=2, learning_rate=0.1))
    weight = torch.zeros(4, requires_grad=True)
    draws = torch.Generator().manual_seed(3)
    total = sum(sum(losses(weight)(draws).values()) for _ in range(2)) / 2
    total.backward()
    assert rows[0][1]["loss"] == pytest.approx(float(total.detach()), rel=1e-5)
    assert torch.allclose(twice, -0.1 * weight.grad.sign(), atol=1e-4)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_gradient_of_a_step_is_the_mean_over_its_batches(accumulate):
    """What the optimiser sees, of which Adam's first step hides the length."""
    weight, seen = nn.Parameter(torch.zeros(4)), []

    class Watching:
        def gradients(self, terms, parameters, /):
            sum(terms.values()).backward()

        def after_step(self):
            seen.append(weight.grad.clone())

    ran(Settings(steps=1, accumulate=accumulate), weight=weight, hooks=Watching())
    plain, draws = torch.zeros(4, requires_grad=True), torch.Generator().manual_seed(3)
    batches = [sum(losses(plain)(draws).values()) for _ in range(accumulate)]
    torch.stack(batches).mean().backward()
    assert torch.allclose(seen[0], plain.grad, rtol=1e-5)


def test_a_cosine_schedule_falls_to_a_hundredth():
    settings = Settings(steps=10, schedule="cosine")
    assert [_factor(settings, step) for step in (0, 5, 10)] == pytest.approx([1.0, 0.505, 0.01])
    assert _factor(Settings(steps=10), 5) == 1.0


def test_adamw_pulls_weights_to_zero_by_rate_times_decay():
    def after(decay):
        settings = Settings(steps=1, optimiser="adamw", weight_decay=decay, learning_rate=0.1)
        return ran(settings, weight=nn.Parameter(torch.ones(4)))[0]

    assert torch.allclose(after(0.5), after(0.0) - 0.1 * 0.5, atol=1e-6)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_gradients_are_shortened_before_the_step(clip):
    weight, lengths = nn.Parameter(torch.zeros(4)), []

    class Watching:
        def gradients(self, terms, parameters, /):
            sum(terms.values()).backward()

        def after_step(self):
            lengths.append(float(weight.grad.norm()))

    ran(Settings(steps=3, clip=clip), weight=weight, hooks=Watching())
    assert max(lengths) == pytest.approx(0.5, abs=1e-5) if clip else max(lengths) > 1.0


def test_a_term_that_is_not_finite_is_named():
    weight = nn.Parameter(torch.zeros(4))

    def terms(generator):
        found = losses(weight)(generator)
        bad = math.nan if float(weight.detach().norm()) > 0.3 else 0.0
        return {**found, "odd": found["small"] * 0 + bad}

    with pytest.raises(ModelCollapsed, match="term 'odd' of the loss became nan at step"):
        ran(Settings(), weight=weight, terms=terms)


def test_running_out_of_memory_is_one_error_on_every_device():
    for error in (torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("not enough memory")):

        def terms(_, error=error):
            raise error

        with pytest.raises(MemoryRanOut):
            ran(Settings(batch=4), terms=terms)


def test_other_errors_are_not_taken_for_memory():
    def terms(_):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        ran(Settings(), terms=terms)


def test_masked_weights_stay_bit_for_bit_whatever_the_optimiser():
    start = torch.tensor([0.3, 0.7, -0.4, 0.1])
    weight = nn.Parameter(start.clone())
    settings = Settings(saliency=0.5, optimiser="adamw", weight_decay=0.5)
    trained, _ = ran(settings, weight=weight)
    same = trained == start
    assert same.tolist() == [True, False, False, True]
    whole, _ = ran(replace(settings, saliency=1.0), weight=nn.Parameter(start.clone()))
    assert not (whole == start).any()


def test_a_tensor_without_a_gradient_at_the_start_stays_free_under_a_mask():
    """As the inner factor of low-rank layers, whose outer one begins at zero."""
    up, down = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(1))
    recording = Recording(
        host("tiny_sd1"), generator=torch.Generator(), monitor=lambda *_: None, steps=20
    )
    train(
        lambda _: {"near": ((up * down - GOAL) ** 2).mean()},
        {"model/up": up, "model/down": down},
        Settings(steps=20, saliency=0.5),
        generator=torch.Generator().manual_seed(3),
        recording=recording,
    )
    assert (up.detach() == 0).tolist() == [True, False, False, True]
    assert float(down.detach()) != 1.0


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"saliency": 0.0}, {"clip": -1.0}, {"accumulate": 0}]
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(BadRequest, match=next(iter(bad))):
        Settings(**bad)


def test_the_teacher_is_the_unedited_network_to_the_bit(tiny_sd1):
    weights = chosen(tiny_sd1, "key_value")
    before = {key: weight.detach().clone() for key, weight in weights.items()}
    with training(tiny_sd1, weights) as edit:
        assert all(weight.requires_grad for weight in weights.values())
        rest = set(tiny_sd1.unet.parameters()) - set(weights.values())
        assert not any(weight.requires_grad for weight in rest)
        with torch.no_grad():
            for weight in weights.values():
                weight += 1
        with edit.teacher():
            assert all(torch.equal(weight, before[key]) for key, weight in weights.items())
        assert all(torch.equal(weight, before[key] + 1) for key, weight in weights.items())
        patches = edit.patches()
    assert patches.keys() == weights.keys()
    assert all(torch.equal(weight, before[key]) for key, weight in weights.items())


def test_half_precision_is_refused_with_advice():
    pipe = host("tiny_sd1", dtype=torch.float16)
    with (
        pytest.raises(BadModel, match="load the model in float32"),
        training(pipe, chosen(pipe, "key_value")),
    ):
        pass
