"""What is particular to each search: settings, steps, the paper's way of scoring, folds."""

from contextlib import contextmanager

import pytest
import torch

from efface.errors import BadRequest
from efface.registry import build
from efface.searches.crossfit import Crossfit
from efface.searches.worst_case import WorstCase


class Known:
    """Candidates whose losses after erasure are known and do not depend on the others."""

    def __init__(self, losses, *, weighs=True):
        self.given, self.weighs = losses.double(), weighs
        self.names = tuple(map(str, range(len(losses))))
        self.seen, self.starts = [], []

    def __len__(self):
        return len(self.given)

    @contextmanager
    def erased(self, weights, *, generator, start=None):
        self.seen.append(weights.clone())
        self.starts.append(start)
        yield len(self.seen)

    def losses(self):
        return self.given


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_losses(count=200, scale=1.0):
    return scale * torch.rand(count, generator=generator(7))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_steps_mean_the_same_for_losses_of_any_size(scale):
    found = WorstCase().search(Known(random_losses(scale=scale)), 20, generator=generator())
    plain = WorstCase().search(Known(random_losses()), 20, generator=generator())
    assert torch.equal(found.chosen, plain.chosen)
    assert found.stable
    assert len(found.rounds) < 20
    assert torch.equal(found.chosen.sort().values, random_losses().argsort()[:20].sort().values)


def test_small_released_steps_give_the_random_start_back():
    """D1 of the notes: with steps of 1e-3 the set is the start; with 1e3 the smallest losses."""
    losses = Known(random_losses())
    released = WorstCase.presets()["released-data"]
    small = build("searches", "worst_case", preset="released-data", step=1e-3)
    start = small.search(losses, 20, generator=generator())
    first = losses.seen[0].nonzero().flatten()
    assert set(start.chosen.tolist()) == set(first.tolist())
    large = released.search(losses, 20, generator=generator())
    assert set(large.chosen.tolist()) == set(random_losses().argsort()[:20].tolist())


def test_the_objective_does_not_rise_where_erasing_is_deterministic():
    found = WorstCase(scored="all", step=0.05, growth=1.2, patience=0, past=0.0).search(
        Known(random_losses()), 20, generator=generator()
    )
    weights = torch.stack([each.weights for each in found.rounds])
    objective = weights @ random_losses().double()
    assert (objective.diff() <= 1e-9).all()
    assert objective[-1] < objective[0]


def test_a_norm_term_leaves_weights_between_none_and_all():
    found = WorstCase(scored="all", gamma=0.3, growth=1.0, patience=0, rounds=60, past=0.0).search(
        Known(random_losses()), 20, generator=generator()
    )
    assert ((found.weights > 0.01) & (found.weights < 0.99)).sum() > 20


def test_by_default_every_candidate_is_erased_once_before_weights_move():
    candidates = Known(random_losses(23))
    WorstCase(rounds=2).search(candidates, 5, generator=generator())
    assert torch.equal(sum(candidates.seen[:5]), torch.ones(23, dtype=torch.float64))
    assert all(set(one.tolist()) == {0.0, 1.0} for one in candidates.seen)


def test_the_papers_way_hands_weights_down_where_they_are_taken():
    weighed, sets = Known(random_losses(20)), Known(random_losses(20), weighs=False)
    search = WorstCase(scored="all", rounds=1, patience=0)
    for candidates in (weighed, sets):
        search.search(candidates, 5, generator=generator())
    assert weighed.seen[0].tolist() == [0.25] * 20
    assert set(sets.seen[0].tolist()) == {0.0, 1.0}
    assert sets.seen[0].sum() == 5


@pytest.mark.parametrize("warm", [True, False])
def test_warm_starts_hand_on_the_last_state(warm):
    candidates = Known(random_losses(20))
    WorstCase(warm=warm, rounds=2, patience=0).search(candidates, 10, generator=generator())
    assert candidates.starts == ([None, 1, 2, 3] if warm else [None] * 4)


def test_crossfit_scores_everybody_once_a_repeat_while_erased():
    candidates = Known(random_losses(23))
    found = Crossfit(folds=3, repeats=2).search(candidates, 5, generator=generator())
    assert torch.equal(sum(candidates.seen), torch.full((23,), 2.0, dtype=torch.float64))
    assert [int(one.sum()) for one in candidates.seen[:3]] == [8, 8, 7]
    assert torch.equal(found.losses, random_losses(23).double())
    assert found.chosen.tolist() == random_losses(23).argsort()[:5].tolist()
    of_the_size = Known(random_losses(23))
    Crossfit(folds=0).search(of_the_size, 5, generator=generator())
    assert len(of_the_size.seen) == 5


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: WorstCase(gamma=0.5, rounds=10), "grows to 512"),
        (lambda: WorstCase(gamma=-1.0), "gamma is -1.0"),
        (lambda: WorstCase(past=1.0), "past is 1.0"),
        (lambda: WorstCase(step=0.0), "step is 0.0"),
        (lambda: build("searches", "worst_case", scale="log"), "scale is 'log'"),
        (lambda: Crossfit(folds=1), "folds is 1"),
        (lambda: Crossfit(repeats=0), "repeats is 0"),
        (
            lambda: Crossfit(folds=9).search(Known(random_losses(5)), 2, generator=generator()),
            "5 candidates make no 9 folds",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(make, told):
    with pytest.raises(BadRequest, match=told):
        make()
