"""The projection of prompts: which words it finds, what is left of rows, and what stays."""

import pytest
import torch

import efface
from efface.diffusion.denoising import Denoiser
from efface.errors import BadRequest
from efface.guides.safree import PromptProjection, basis, outside
from efface.guiding.course import GuidedRun, refuse_unfit
from efface.guiding.drawing import guided

PISTOL = PromptProjection(concepts=("pistol",))


@pytest.fixture(scope="module")
def emoji():
    return efface.load("emoji")


def begun(guide, pipe, prompts):
    denoiser = Denoiser(pipe)
    run = GuidedRun(denoiser, tuple(prompts), 4, None, denoiser.conditions(prompts))
    return guide.begin(run), run


def test_outside_a_space_nothing_of_it_is_left():
    rows = torch.randn(9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    space = basis(rows[:2])
    assert torch.allclose(space @ space.T, torch.eye(2, dtype=torch.float64), atol=1e-12)
    left = outside(rows, space)
    assert torch.allclose(left @ space.T, torch.zeros(9, 2, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(left[:2], torch.zeros(2, 6, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(outside(left, space), left, atol=1e-12)


def test_the_word_is_found_and_prompts_without_it_stay_as_they_are(emoji):
    prompts = ["an icon of a pistol in neon style", "a 3d emoji of a cat", "a pistol"]
    course, run = begun(PISTOL, emoji, prompts)
    assert course.idle.tolist() == [False, True, False]
    assert torch.equal(course.conditions.rows[1], run.conditions.rows[1])
    changed = (course.conditions.rows != run.conditions.rows).any(dim=2)
    places = changed[0].nonzero().flatten().tolist()
    first, last = run.denoiser.text.span(prompts[0], "pistol")
    end = run.denoiser.text.tokenised(prompts[0]).end
    assert places == [*range(first, last + 1), *range(end, changed.shape[1])]


def test_rows_are_projected_out_of_the_concept_and_onto_the_rest_of_the_prompt(emoji):
    """Projectors by pseudo-inverses: I (1 - C) r, for the word's rows and all from the end on."""
    course, run = begun(PISTOL, emoji, ["an icon of a pistol"])
    text, encode = run.denoiser.text, run.denoiser.host.encode
    rows, concept, kept = (
        encode([prompt]).rows[0].double()
        for prompt in ("an icon of a pistol", "pistol", "an icon of a")
    )
    concept = concept[text.tokenised("pistol").begin : text.tokenised("pistol").end + 1]
    c, i = (torch.linalg.pinv(each, rtol=1e-2) @ each for each in (concept, kept))
    first, _ = text.span("an icon of a pistol", "pistol")
    expected = (rows - rows @ c)[first:] @ i
    assert torch.allclose(course.conditions.rows[0][first:].double(), expected, atol=1e-4)
    assert torch.equal(course.conditions.rows[0][:first], run.conditions.rows[0][:first])


def test_where_no_word_is_found_it_is_off(emoji):
    assert begun(PISTOL, emoji, ["a 3d emoji of a cat", "an icon of a crown"])[0] is None


@pytest.mark.thorough
def test_pictures_lose_the_concept_and_others_do_not_change_by_a_bit(emoji):
    """Of two pistols at most one is left; the cat is the plain one."""
    from efface.bundled.judge import EmojiJudge
    from efface.bundled.vocabulary import concept

    prompts = ["an icon of a pistol", "a neon emoji of a pistol", "a 3d emoji of a cat"]
    plain, safe = (
        guided(emoji, guide, prompts, steps=10, guidance=3.0) for guide in ([], [PISTOL])
    )
    judge, presence = EmojiJudge(), []
    for drawn in (plain, safe):
        images = torch.from_numpy(drawn.pixels).permute(0, 3, 1, 2).float() / 255
        presence.append(judge.presence(images, concept("pistol")) >= judge.card.threshold)
    assert presence[0].tolist() == [True, True, False]
    assert presence[1].sum() <= 1
    assert abs(plain.pixels[2].astype(int) - safe.pixels[2].astype(int)).max() <= 1
    assert safe.unmoved() == ()


def test_half_the_strength_goes_half_the_way(emoji):
    half = PromptProjection(concepts=("pistol",), strength=0.5)
    (whole, run), (some, _) = (begun(guide, emoji, ["a pistol"]) for guide in (PISTOL, half))
    middle = (whole.conditions.rows + run.conditions.rows) / 2
    assert torch.allclose(some.conditions.rows, middle, atol=1e-5)


def test_what_makes_no_sense_is_refused():
    for settings, match in (
        ({"sensitivity": -1.0}, "sensitivity is -1.0; give a share"),
        ({"strength": 2.0}, "strength is 2.0; give 0, which is off, to 1"),
    ):
        with pytest.raises(BadRequest, match=match):
            PromptProjection(**settings)
    with pytest.raises(BadRequest, match="safree has nothing to steer by"):
        refuse_unfit([PromptProjection()])
