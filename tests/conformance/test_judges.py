"""What every judge must do for its answers to be numbers that can be counted."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from efface import registry
from efface.errors import EffaceError
from efface.evaluation.instruments import identity_of
from efface.metrics.estimates import is_known
from efface.metrics.presence import ask
from efface.registry import BUNDLED_JUDGES
from efface.workbench.measuring import judge_for
from tests.cases import JUDGE_CASES

SIZES = ((64, 64), (16, 16), (48, 80))
"""Heights and widths of pictures: the bundled model's own, small ones, and oblong ones."""


def built(case, settings, **changed):
    """Builds a judge of the registry, or a bundled one."""
    if case.judge in BUNDLED_JUDGES:
        return judge_for(case.judge, None)
    return registry.build("judges", case.judge, **(settings | changed))


@pytest.fixture(scope="session", params=JUDGE_CASES, ids=lambda case: case.judge)
def judged(request, tmp_path_factory):
    """A case, the settings of its toy, and the judge."""
    case = request.param
    settings = dict(case.settings(tmp_path_factory.mktemp(case.judge)))
    return case, settings, built(case, settings)


def pictures(height=64, width=64, *, count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator)


def test_every_judge_has_a_case_and_every_case_a_judge():
    listed = {entry.name for entry in registry.entries("judges")} | set(BUNDLED_JUDGES)
    assert {case.judge for case in JUDGE_CASES} == listed


def test_a_card_says_who_judges_and_how_well(judged):
    card = judged[2].card
    assert card.name
    assert card.version
    assert 0 < card.threshold < 1
    for rate in (card.true_positive_rate, card.false_positive_rate):
        assert not is_known(rate) or 0 <= rate.low <= rate.value <= rate.high <= 1
    assert is_known(card.true_positive_rate) or "not measured" in card.notes


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_answers_are_probabilities_one_per_picture(judged, height, width):
    case, _, judge = judged
    shown = pictures(height, width)
    before = shown.clone()
    answers = judge.presence(shown, case.known)
    assert answers.shape == (4,)
    assert answers.dtype.is_floating_point
    assert not answers.requires_grad
    assert bool(((answers >= 0) & (answers <= 1)).all())
    assert torch.equal(shown, before)
    assert torch.equal(ask(judge, shown, [case.known] * 4), answers.float())


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_picture_is_judged_by_itself(judged, height, width):
    case, _, judge = judged
    shown = pictures(height, width)
    together = judge.presence(shown, case.known)
    alone = torch.cat([judge.presence(each[None], case.known) for each in shown])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(judge.presence(shown.flip(0), case.known).flip(0), together, atol=1e-5)
    assert len(together.unique()) > 1, "all pictures look alike to it"


def test_the_same_pictures_get_the_same_answers_and_nothing_global_is_touched(judged):
    case, settings, judge = judged
    shown, state = pictures(), torch.get_rng_state()
    threads, enabled = torch.get_num_threads(), torch.is_grad_enabled()
    first = judge.presence(shown, case.known)
    assert torch.equal(judge.presence(shown, case.known), first)
    assert torch.equal(built(case, settings).presence(shown, case.known), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, enabled)


def test_what_it_does_not_know_is_refused_by_name_and_not_called_absent(judged):
    case, _, judge = judged
    assert judge.knows(case.known)
    if case.unknown is None:
        return
    assert not judge.knows(case.unknown)
    with pytest.raises(EffaceError, match=case.unknown.name):
        judge.presence(pictures(), case.unknown)


def test_a_picture_that_is_not_finite_gets_no_number(judged):
    case, _, judge = judged
    shown = pictures()
    shown[1] = torch.nan
    answers = judge.presence(shown, case.known)
    assert answers.isnan().tolist() == [False, True, False, False]


def test_identity_is_that_of_content_and_settings(judged, tmp_path):
    """Equal ones share their stored answers; whatever answers otherwise must not."""
    case, settings, judge = judged
    assert identity_of(built(case, settings)) == identity_of(judge)
    for changed in case.changed:
        assert identity_of(built(case, settings, **changed)) != identity_of(judge)
    if "folder" not in settings:
        return
    copied = tmp_path / settings["folder"].name
    shutil.copytree(settings["folder"], copied)
    assert identity_of(built(case, settings, folder=copied)) == identity_of(judge)
    weights = load_file(copied / "model.safetensors")
    changed = {name: weight + 0.1 for name, weight in weights.items()}
    save_file(changed, copied / "model.safetensors", metadata={"format": "pt"})
    assert identity_of(built(case, settings, folder=copied)) != identity_of(judge)


def test_features_of_a_picture_are_its_own(judged):
    judge = judged[2]
    if not hasattr(judge, "features"):
        return
    shown = pictures(48, 80)
    together = judge.features(shown)
    assert together.ndim == 2
    assert len(together) == 4
    alone = torch.cat([judge.features(each[None]) for each in shown])
    assert torch.allclose(together, alone, atol=1e-4)
