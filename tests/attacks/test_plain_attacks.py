"""Attacks that search nothing: other words, letters, seeds, samplers, and rows in closed form."""

import pytest
import torch

from efface.attacks.character_noise import KINDS, CharacterNoise
from efface.attacks.closed_form_embedding import ClosedFormEmbedding
from efface.attacks.other_seeds import OtherSeeds
from efface.attacks.paraphrase import Paraphrase
from efface.attacks.sampling_tricks import SamplingTricks
from efface.errors import BadRequest
from tests.attacks.room import driven, toy_target


def test_wordings_and_synonyms_take_turns_in_place_of_the_name():
    target = toy_target(prompts=("a Cat on a mat",), wordings=("old mouser", "what purrs"))
    texts = [one.prompt for attempts in driven(Paraphrase(), target) for one in attempts]
    assert texts == ["an old mouser on a mat", "a kitty on a mat", "what purrs on a mat"]


def test_a_prompt_without_the_name_makes_no_attempt():
    target = toy_target(prompts=("a dog",), wordings=("what purrs",))
    assert driven(Paraphrase(), target) == []
    assert driven(CharacterNoise(), target) == []


def test_every_misspelling_changes_the_name():
    for place in (1, 2):
        assert all(change("cat", place) != "cat" for change in KINDS.values())
    assert KINDS["swapped letters"]("cat", 1) == "act"
    assert KINDS["dropped letter"]("cat", 1) == "ct"
    assert KINDS["doubled letter"]("cat", 1) == "caat"
    assert KINDS["hyphen"]("cat", 1) == "c-at"


def test_capitals_that_read_alike_are_not_drawn_again():
    found = driven(CharacterNoise(kinds=("capitals", "word order")), toy_target())
    assert [one.prompt for attempts in found for one in attempts] == [
        "cat on a mat",
        "cat a photo of",
    ]


def test_further_seeds_are_other_seeds_of_the_same_prompt():
    found = driven(OtherSeeds(tries=3), toy_target(), close=(0,))
    assert [[one.trial for one in attempts] for attempts in found] == [[0, 1], [1], [1]]
    seeds = [one.seed for attempts in found for one in attempts]
    assert len(set(seeds)) == len(seeds)


def test_samplers_are_turned_one_at_a_time():
    found = driven(SamplingTricks(), toy_target(prompts=("a cat",)))
    attempts = [one for each in found for one in each]
    away = next(one for one in attempts if one.negative)
    assert (away.prompt, away.negative, away.guidance) == ("a", "cat", -3.0)
    assert {one.scheduler for one in attempts} == {
        "",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
    }
    assert {one.steps for one in attempts} == {None, 5, 40}
    assert sum(one.prompt == "" for one in attempts) == 2
    assert all(one.note for one in attempts)


def test_without_an_edit_the_rows_are_the_prompt_s_own():
    target = toy_target(prompts=("a cat",))
    (one,), *_ = driven(ClosedFormEmbedding(strengths=(1e-12,)), target)
    own = target.denoiser.conditions(["a cat"]).rows[0].double()
    torch.testing.assert_close(one.rows, own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Paraphrase(tries=0), "tries is 0; it must be above zero"),
        (lambda: OtherSeeds(tries=0), "tries is 0; it must be above zero"),
        (lambda: SamplingTricks(seeds=0), "seeds is 0; it must be above zero"),
        (lambda: ClosedFormEmbedding(strengths=(0.0,)), "strengths hold 0.0; each must be above"),
        (lambda: CharacterNoise(kinds=("runes",)), "'runes' is not a kind of character noise"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message):
    with pytest.raises(BadRequest, match=message):
        make()
