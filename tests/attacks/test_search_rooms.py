"""What searches of tokens share: gradients, candidates, populations, rows that recover."""

import pytest
import torch

from efface.closed_form.returning import ReturnProblem, returning_rows
from efface.randomness import derive
from efface.revival.genetic import GeneticSearch
from efface.revival.recovering import recovering_rows
from efface.revival.token_search import GreedySearch, candidates, nearest, row_gradients
from efface.revival.tokens import project_to_simplex


def draws(count):
    return [derive(7, place) for place in range(count)]


def test_the_gradient_of_one_hot_rows_is_that_of_finite_differences():
    table = torch.randn(9, 4, generator=derive(0, "t"), dtype=torch.float64)
    aim = torch.randn(2, 3, 4, generator=derive(1, "t"), dtype=torch.float64)
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])

    def losses(rows):
        return (rows - aim).pow(3).flatten(1).sum(1)

    found, gradient = row_gradients(table, tokens, losses)
    torch.testing.assert_close(found, losses(table[tokens]))
    hot = torch.nn.functional.one_hot(tokens, 9).double()
    step = 1e-6
    for trial, place, token in ((0, 0, 8), (0, 2, 3), (1, 1, 0)):
        ahead, behind = hot.clone(), hot.clone()
        ahead[trial, place, token] += step
        behind[trial, place, token] -= step
        slope = (losses(ahead @ table) - losses(behind @ table))[trial] / (2 * step)
        assert float(gradient[trial, place, token]) == pytest.approx(float(slope), rel=1e-6)


def test_candidates_differ_in_one_position_and_never_hold_a_banned_token():
    gradient = torch.randn(2, 3, 20, generator=derive(0, "g"))
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    allowed = torch.ones(20, dtype=torch.bool)
    allowed[[0, 7, 9]] = False
    found = candidates(gradient, tokens, allowed, top=5, count=40, generators=draws(2))
    changed = found != tokens[:, None]
    assert bool((changed.sum(dim=2) == 1).all())
    assert bool(allowed[found[changed]].all())


def test_candidates_are_among_the_best_of_their_position():
    gradient = torch.randn(1, 2, 20, generator=derive(0, "g"))
    tokens = torch.tensor([[1, 2]])
    found = candidates(
        gradient, tokens, torch.ones(20, dtype=torch.bool), top=3, count=40, generators=draws(1)
    )
    for place in range(2):
        best = [t for t in gradient[0, place].argsort().tolist() if t != tokens[0, place]][:3]
        assert set(found[0, :, place].tolist()) <= {*best, int(tokens[0, place])}


def test_a_greedy_search_never_loses_its_best_and_holds_no_banned_token():
    table = torch.randn(12, 4, generator=derive(0, "t"))
    allowed = torch.arange(12) != 5
    aims = table[torch.tensor([[5, 1], [2, 5]])]

    def losses(trials, rows):
        return (rows - aims[trials]).square().flatten(1).sum(1)

    search = GreedySearch(table, allowed, 2, losses, generators=draws(2))
    before = search.lowest.clone()
    for _ in range(12):
        search.step([0, 1], top=4, count=6)
        assert bool((search.lowest <= before).all())
        before = search.lowest.clone()
        assert not bool((search.best == 5).any())
    torch.testing.assert_close(losses([0, 1], table[search.best]), search.lowest)
    assert int(search.best[0, 1]) == 1
    assert int(search.best[1, 0]) == 2


def test_a_genetic_search_keeps_its_best_and_finds_a_sequence_of_its_vocabulary():
    aim = torch.tensor([3, 1, 4])

    def losses(tokens):
        return (tokens != aim).sum(1).float()

    search = GeneticSearch(torch.arange(6), 3, 16, losses, generator=derive(0, "g"))
    for _ in range(30):
        before = float(search.losses[0])
        search.step(mutation=0.5)
        assert float(search.losses[0]) <= before
        torch.testing.assert_close(losses(search.population), search.losses)
    assert search.population[0].tolist() == aim.tolist()


def test_the_nearest_token_is_by_cosine_and_allowed():
    table = torch.tensor([[1.0, 0.0], [10.0, 1.0], [0.0, 1.0]])
    rows = torch.tensor([[3.0, 0.0], [0.1, 9.0]])
    assert nearest(table, rows, torch.ones(3, dtype=torch.bool)).tolist() == [0, 2]
    assert nearest(table, rows, torch.tensor([False, True, True])).tolist() == [1, 2]


def test_the_projection_is_the_nearest_point_of_the_simplex():
    """Bisection on the threshold is another way to the same projection."""
    rows = torch.randn(5, 8, generator=derive(0, "s"), dtype=torch.float64)
    low, high = rows.min(1).values - 1, rows.max(1).values
    for _ in range(80):
        middle = (low + high) / 2
        above = (rows - middle[:, None]).clamp(min=0).sum(1) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    projected = project_to_simplex(rows)
    torch.testing.assert_close(projected, (rows - low[:, None]).clamp(min=0))
    torch.testing.assert_close(project_to_simplex(projected), projected)
    torch.testing.assert_close(project_to_simplex(torch.eye(4)), torch.eye(4))


def test_recovering_rows_are_rece_s_where_all_layers_share_one_map():
    """With W = W0 P, F^T F = sum W0^T W0, the closed form of the eraser gives the same rows."""
    plain = {
        str(n): torch.randn(5, 4, generator=derive(n, "w"), dtype=torch.float64) for n in (1, 2)
    }
    edit = torch.eye(4, dtype=torch.float64) + 0.3 * torch.randn(
        4, 4, generator=derive(3, "p"), dtype=torch.float64
    )
    edited = {path: weight @ edit for path, weight in plain.items()}
    rows = torch.randn(3, 4, generator=derive(4, "e"), dtype=torch.float64)
    stack = torch.cat(list(plain.values()))
    whole = torch.cat(list(edited.values()))
    penalty = 0.01 * float(whole.square().sum()) / 4
    aim = returning_rows(ReturnProblem.of(torch.linalg.qr(stack).R, edit), rows, strength=penalty)
    torch.testing.assert_close(recovering_rows(edited, plain, rows, strength=0.01), aim)
    exact = recovering_rows(edited, plain, rows, strength=1e-12)
    torch.testing.assert_close(exact @ edit.T, rows, rtol=1e-6, atol=1e-6)
