"""What makes the bundled model that of scenes, but for its weights: its pictures' size, padding."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

import efface
from efface.bundled.scenes import pad_plainly, size_for_scenes
from efface.hosts.sd import StableDiffusion1


@pytest.fixture(scope="module")
def pipe():
    made = efface.load("emoji")
    made.set_progress_bar_config(disable=True)
    pad_plainly(made.tokenizer, made.text_encoder)
    size_for_scenes(made)
    return made


def drawn(pipe):
    made = pipe(
        ["a cat and a moon"],
        num_inference_steps=1,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    )
    return made.images


@pytest.mark.thorough
def test_it_draws_wide_pictures_without_being_told_also_by_diffusers_alone(pipe, tmp_path):
    own = drawn(pipe)
    assert own.shape == (1, 3, 64, 192)
    pipe.save_pretrained(tmp_path)
    again = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(drawn(again), own)


def test_latents_of_training_and_attacks_have_the_shape_of_its_pictures(pipe):
    assert StableDiffusion1(pipe).latent_shape == (12, 8, 24)


@torch.no_grad()
def test_what_follows_a_prompts_end_says_nothing_about_the_prompt(pipe):
    prompts = ["", "a cat", "a cat, an apple and some grapes, neon style"]
    given = pipe.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    states = pipe.text_encoder(input_ids=given).last_hidden_state
    lengths = (given == pipe.tokenizer.eos_token_id).int().argmax(dim=1)
    tails = [row[length + 1 :] for row, length in zip(states, lengths, strict=True)]
    constant = tails[0].mean(dim=0)
    for tail in tails:
        assert torch.allclose(tail, constant.expand_as(tail), atol=0.02)
    assert torch.allclose(states[1, 1:3], states[2, 1:3], atol=1e-4)  # "a cat", in both
    assert (states[1, lengths[1]] - states[2, lengths[2]]).abs().max() > 0.1
