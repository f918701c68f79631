"""What every search for forget sets must do, whatever the candidates are."""

from contextlib import contextmanager

import pytest
import torch

from efface import registry
from efface.contracts import ForgetSetSearch
from efface.errors import BadRequest, MeasurementFailed
from efface.selection.lower import Retraining, SignDescent
from efface.selection.pictures import PictureCandidates
from tests.cases import SEARCH_CASES
from tests.pictures import CLASSES, knowing, stripes


@pytest.fixture(params=SEARCH_CASES, ids=lambda case: case.name)
def case(request):
    return request.param


def built(case, **more):
    return registry.build("searches", case.search, **{**case.settings, **more})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Planted:
    """Candidates whose losses are known: what is erased rises by its own amount.

    With ``fixed`` all have risen already, whatever is erased.
    """

    weighs = True

    def __init__(self, rises, *, broken=None, fixed=False):
        self.rises = torch.tensor(rises, dtype=torch.float64)
        self.names = tuple(f"number {place}" for place in range(len(rises)))
        self.broken, self.fixed, self.weights = broken, fixed, []

    def __len__(self):
        return len(self.rises)

    @contextmanager
    def erased(self, weights, *, generator, start=None):
        self.weights.append(weights.clone())
        yield "state"

    def losses(self):
        found = self.rises.clone() if self.fixed else self.weights[-1] * self.rises
        if self.broken is not None:
            found[self.broken] = torch.nan
        return found


RISES = [5.0, 0.1, 4.0, 3.0, 0.2, 6.0, 7.0, 0.3, 8.0, 9.0, 5.5, 6.5]


def test_every_search_has_a_case_and_is_a_search():
    names = {entry.name for entry in registry.entries("searches")}
    assert {case.search for case in SEARCH_CASES} == names
    assert all(issubclass(registry.load("searches", name), ForgetSetSearch) for name in names)


def test_it_is_deterministic_and_other_seeds_may_differ(case):
    found = [built(case).search(Planted(RISES), 3, generator=generator()) for _ in range(2)]
    assert torch.equal(found[0].chosen, found[1].chosen)
    assert torch.equal(found[0].losses.nan_to_num(), found[1].losses.nan_to_num())
    assert len(found[0].rounds) == len(found[1].rounds)


@pytest.mark.parametrize("size", [1, 3, 6, 12])
def test_every_round_keeps_the_size(case, size):
    candidates = Planted(RISES)
    found = built(case).search(candidates, size, generator=generator())
    assert len(found.chosen) == len(set(found.chosen.tolist())) == size
    for each in found.rounds:
        assert len(each.chosen) == size
        assert 0 <= each.overlap <= 1
        assert abs(float(each.weights.sum()) - size) < 1e-9
        assert each.weights.min() >= 0
        assert each.weights.max() <= 1
    assert all((one >= 0).all() and (one <= 1).all() for one in candidates.weights)


def test_what_erasure_leaves_at_a_low_loss_is_found(case):
    """Of the paper's losses those that were not erased are low, too, so only removed ones count."""
    if case.settings.get("scored") == "all":
        pytest.skip("the paper's own losses")
    found = built(case).search(Planted(RISES), 3, generator=generator())
    assert set(found.chosen.tolist()) == {1, 4, 7}
    assert found.chosen[0] == 1


def test_hardest_and_easiest_are_disjoint(case):
    """Where all losses count, only for losses that erasing does not move: others swing."""
    fixed = case.settings.get("scored") == "all"
    for size in (3, 6):
        sets = [
            built(case, easiest=each).search(
                Planted(RISES, fixed=fixed), size, generator=generator()
            )
            for each in (False, True)
        ]
        assert not set(sets[0].chosen.tolist()) & set(sets[1].chosen.tolist())
        assert [each.easiest for each in sets] == [False, True]


def test_the_model_is_left_bit_for_bit_also_when_scoring_fails(case, monkeypatch):
    model = knowing()
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    candidates = PictureCandidates(model, stripes(model.labels, each=2), SignDescent(epochs=1.0))
    built(case).search(candidates, 4, generator=generator())
    monkeypatch.setattr(candidates, "losses", lambda: torch.full((len(candidates),), torch.inf))
    with pytest.raises(MeasurementFailed):
        built(case).search(candidates, 4, generator=generator())
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(weight.requires_grad for weight in model.model.parameters())


@pytest.mark.thorough
def test_planted_duplicates_are_found(case):
    """Pictures that are in the data several times are known without themselves: they are hardest.

    The other pictures are noise with random labels, which nobody guesses who did not see them.
    """
    if case.settings.get("scored") == "all" or "start" in case.settings:
        pytest.skip("one way of scoring is enough")
    model = knowing()
    pictures = _planted(model.labels)
    lower = Retraining(epochs=12.0, batch=16, rate=1e-2)
    candidates = PictureCandidates(model, pictures, lower)
    found = built(case).search(candidates, 6, generator=generator())
    assert len(set(found.chosen.tolist()) & set(range(12))) >= 5


def _planted(names):
    """Twelve copies of one picture, then 24 pictures of noise with labels at random."""
    clean = stripes(names, each=1)
    draw = generator(3)
    noise = torch.rand((24, 3, 16, 16), generator=draw)
    labels = torch.randint(CLASSES, (24,), generator=draw)
    copies = clean.pixels[2].expand(12, -1, -1, -1)
    return type(clean)(
        clean.names,
        torch.cat([torch.full((12,), int(clean.labels[2])), labels]),
        torch.cat([copies, noise]),
    )


@pytest.mark.parametrize("size", [-1, 13])
def test_impossible_sizes_are_refused(case, size):
    with pytest.raises(BadRequest, match=f"a set of {size} of 12 candidates"):
        built(case).search(Planted(RISES), size, generator=generator())


def test_losses_that_are_not_finite_stop_it_by_name(case):
    with pytest.raises(MeasurementFailed, match="'number 4' is nan"):
        built(case).search(Planted(RISES, broken=4), 3, generator=generator())


def test_the_monitor_is_called_once_a_round(case):
    heard = []
    found = built(case).search(
        Planted(RISES), 3, generator=generator(), monitor=lambda *told: heard.append(told)
    )
    assert [step for step, _, _ in heard] == list(range(len(found.rounds)))
    assert all(step < total for step, total, _ in heard)


def test_what_is_told_can_be_written_and_names_the_set(case):
    import json

    candidates = Planted(RISES)
    found = built(case).search(candidates, 3, generator=generator())
    told = json.loads(json.dumps(found.told(candidates.names)))
    assert told["names"] == [f"number {place}" for place in told["chosen"]]
    assert len(told["rounds"]) == len(found.rounds)
