"""Attacks that search tokens: accounts, batches, aims, and what they leave behind."""

import pytest
import torch

from efface.attacks.greedy_coordinate import GreedyCoordinate
from efface.attacks.hard_prompt import HardPrompt
from efface.attacks.ring_a_bell import RingABell, concept_vector
from efface.attacks.universal_prefix import UniversalPrefix
from efface.attacks.unlearn_diff_atk import UnlearnDiffAtk, drawn_tokens
from efface.errors import BadRequest
from efface.randomness import derive
from efface.revival.reconstruction import Noised
from tests.attacks.room import driven, toy_target

SMALL = {
    "unlearn": UnlearnDiffAtk(blocks=2, steps=2, tokens=2, batch=1),
    "hard_n": HardPrompt(steps=4, every=2, batch=1, tokens=2, pictures=2),
    "hard_k": HardPrompt(form="k", steps=4, every=2, batch=1, pictures=2),
    "greedy": GreedyCoordinate(steps=2, every=1, candidates=2, batch=1, tokens=2, pictures=2),
    "aimed": GreedyCoordinate(steps=2, every=1, candidates=2, batch=1, tokens=2, aim="prediction"),
    "ring": RingABell(steps=4, every=2, candidates=4, tokens=2),
    "genetic": RingABell(steps=4, every=2, candidates=4, tokens=2, search="genetic"),
    "universal": UniversalPrefix(steps=2, every=1, candidates=2, batch=1, tokens=2, pictures=2),
}


@pytest.fixture(params=SMALL, scope="module")
def attack(request):
    changed = {"pictures": 2} if hasattr(SMALL[request.param], "pictures") else {}
    return type(SMALL[request.param])(**{**vars(SMALL[request.param]), **changed})


def test_what_is_spent_is_what_the_networks_did_and_weights_stay(attack):
    target = toy_target()
    before = {k: v.clone() for k, v in target.model.unet.state_dict().items()}
    found = driven(attack, target)
    spent = sum(one.spent for attempts in found for one in attempts)
    assert spent == target.evaluations - target.setup
    after = target.model.unet.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    for attempts in found:
        trials = [one.trial for one in attempts]
        assert len(set(trials)) == len(trials)
        assert all("cat" not in one.prompt.split()[: attack.tokens] for one in attempts)


@pytest.mark.thorough
def test_a_trial_finds_the_same_after_another_has_ended(attack):
    whole = driven(attack, toy_target())
    alone = driven(attack, toy_target(), close=(0,))
    texts = [
        [one.prompt for attempts in each for one in attempts if one.trial == 1]
        for each in (whole, alone)
    ]
    assert texts[0] == texts[1]
    assert texts[0]
    assert sum(one.trial == 0 for attempts in alone for one in attempts) == 1


@pytest.mark.thorough
def test_a_prompt_is_drawn_again_only_from_another_seed(attack):
    drawn = [
        (one.trial, one.prompt, one.seed) for each in driven(attack, toy_target()) for one in each
    ]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(
    "kind", [UnlearnDiffAtk, HardPrompt, GreedyCoordinate, RingABell, UniversalPrefix]
)
def test_settings_at_zero_are_refused(kind):
    with pytest.raises(BadRequest, match="tokens is 0; it must be above zero"):
        kind(tokens=0)


def test_the_unedited_model_already_predicts_the_aim_of_p4d():
    """P4D's loss is 0 where the erased model is the unedited one and the prompt is the aim."""
    target = toy_target()
    noised = Noised.drawn(target, [derive(0, 1), derive(0, 2)], 3, pictures=2)
    prompts = [trial.prompt for trial in target.trials]
    aimed = noised.as_unedited(target, prompts)
    with torch.no_grad():
        own = aimed.errors(target.denoiser, target.denoiser.conditions(prompts))
        other = aimed.errors(target.denoiser, target.denoiser.conditions(["", ""]))
    torch.testing.assert_close(own, torch.zeros(2), rtol=0, atol=1e-9)
    assert bool((other > 1e-9).all())


def test_form_k_keeps_the_prompt_without_the_name_around_its_tokens():
    target = toy_target(prompts=("a cat on a mat",))
    (one, *_), *_ = driven(SMALL["hard_k"], target)
    # Tokens may come within words, so that letters are what stays in order.
    letters = iter(one.prompt.replace(" ", ""))
    assert all(letter in letters for letter in "aonamat")
    assert len(one.prompt) > len("a on a mat")


def test_draws_of_rows_that_are_one_hot_are_those_tokens():
    rows = torch.eye(5)[torch.tensor([[3, 1], [0, 4]])]
    assert drawn_tokens(rows, [derive(0, 1), derive(0, 2)]).tolist() == [[3, 1], [0, 4]]


def test_the_concept_vector_is_linear_in_its_pairs():
    having, lacking = (torch.randn(3, 5, 2, generator=derive(0, side)) for side in "ab")
    vector = concept_vector(having, lacking)
    torch.testing.assert_close(vector, -concept_vector(lacking, having))
    torch.testing.assert_close(concept_vector(having, having), torch.zeros(5, 2))
    twice = concept_vector(having.repeat(2, 1, 1), lacking.repeat(2, 1, 1))
    torch.testing.assert_close(vector, twice)


def test_a_known_prefix_comes_first_and_can_come_alone():
    found = driven(UniversalPrefix(known="qx", steps=0), toy_target())
    assert [one.prompt for one in found[0]] == ["qx a cat on a mat", "qx a photo of a cat"]
    assert len(found) == 1
    with pytest.raises(BadRequest, match="steps is -1; it must not be negative"):
        UniversalPrefix(known="qx", steps=-1)
