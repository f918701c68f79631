"""Searches by gradients against steps computed by hand."""

import pytest
import torch

from efface.training.adversary import fgsm, pgd, released_fast, released_pgd, search

START = torch.tensor([[1.0, -2.0], [0.5, 4.0]], dtype=torch.float64)
RATE = 0.25


def bowl(inputs):
    """Lowest at 0; its gradient is 2 x."""
    return inputs.square().sum()


def drawn():
    return torch.Generator().manual_seed(3)


def test_fgsm_moves_every_value_by_exactly_one_step():
    found = fgsm(bowl, START, rate=RATE, radius=0.0, generator=drawn())
    assert torch.equal(found.inputs, START - RATE * START.sign())
    assert found.losses == (pytest.approx(float(bowl(START))),)


def test_a_value_without_a_gradient_stays():
    found = fgsm(lambda x: x[0].square().sum(), START, rate=RATE, radius=0.0, generator=drawn())
    assert torch.equal(found.inputs[1], START[1])


def test_s_steps_move_no_further_than_s_times_the_rate():
    found = pgd(bowl, START, steps=3, rate=RATE, radius=0.0, generator=drawn())
    assert (found.inputs - START).abs().max() <= 3 * RATE
    assert bowl(found.inputs) < bowl(START)
    assert list(found.losses) == sorted(found.losses, reverse=True)


@pytest.mark.parametrize("steps", [1, 5])
def test_the_result_stays_in_the_ball_and_begins_anywhere_in_it(steps):
    found = pgd(bowl, START, steps=steps, rate=RATE, radius=0.3, generator=drawn())
    assert (found.inputs - START).abs().max() <= 0.3 + 1e-12
    assert found.losses[0] != pytest.approx(float(bowl(START)))
    again = pgd(bowl, START, steps=steps, rate=RATE, radius=0.3, generator=drawn())
    assert torch.equal(found.inputs, again.inputs)


def test_many_steps_end_at_the_ball_s_edge_nearest_the_minimum():
    found = pgd(bowl, START, steps=40, rate=0.05, radius=0.3, generator=drawn())
    expected = START - 0.3 * START.sign()
    assert torch.allclose(found.inputs, expected)


def test_the_released_forms_move_one_time_fewer_than_they_take_steps():
    for form in (released_pgd, released_fast):
        assert torch.equal(form(bowl, START, steps=1, rate=RATE).inputs, START)
        # Adam's first step is the rate, in the direction of the sign.
        once = form(bowl, START, steps=2, rate=RATE)
        assert torch.allclose(once.inputs, START - RATE * START.sign(), atol=1e-6)
        assert len(once.losses) == 1


def test_the_released_pgd_sums_gradients_up():
    """The literal loop, whose gradients nobody zeroes: torch's own, left to add up."""
    inputs = START.clone().requires_grad_()
    optimiser = torch.optim.Adam([inputs], lr=RATE)
    for _ in range(6):
        before = inputs.detach().clone()
        bowl(inputs).backward()
        optimiser.step()
    found = released_pgd(bowl, START, steps=6, rate=RATE)
    assert torch.equal(found.inputs, before)


def test_the_released_fast_walks_along_its_first_gradient():
    """On a loss with small gradients that turn round, sign(previous sign + gradient) never does."""

    def small(inputs):
        return 1e-3 * bowl(inputs)

    found = released_fast(small, START, steps=21, rate=RATE)
    assert torch.allclose(found.inputs, START - 20 * RATE * START.sign(), atol=1e-5)
    zeroed = pgd(small, START, steps=20, rate=RATE, radius=0.0, generator=drawn())
    assert zeroed.inputs.abs().max() <= RATE


def test_no_other_gradient_is_kept():
    weight = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    for kind in ("fgsm", "pgd", "released_pgd", "released_fast"):
        found = search(
            kind,
            lambda x: (weight * x).square().sum(),
            START,
            steps=3,
            rate=RATE,
            radius=0.0,
            generator=drawn(),
        )
        assert not found.inputs.requires_grad
    assert weight.grad is None
    assert START.requires_grad is False


def test_a_search_by_name_is_that_search():
    options = {"steps": 4, "rate": RATE, "radius": 0.1, "generator": drawn()}
    by_name = search("pgd", bowl, START, **options)
    assert torch.equal(by_name.inputs, pgd(bowl, START, **options | {"generator": drawn()}).inputs)
    fast = search("released_fast", bowl, START, **options)
    assert torch.equal(fast.inputs, released_fast(bowl, START, steps=4, rate=RATE).inputs)
