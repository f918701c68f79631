"""The shipped weights: layout, size, and what model and judge do on a few pictures."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

import efface
from efface.bundled import pipeline_folder, weights_folder
from efface.bundled.clip import EmojiClip
from efface.bundled.judge import FILES, EmojiJudge
from efface.bundled.vocabulary import NOUNS, concept
from efface.concepts import Concept
from efface.errors import BadRequest
from tests.bundled.pictures import drawn

PROMPTS = (
    "a pistol, twemoji style",
    "a cat, neon style",
    "a pizza, sepia style",
    "a key, 3d style",
)


@pytest.fixture(scope="module")
def pipe():
    loaded = efface.load("emoji")
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def pictures(pipe):
    return drawn(pipe, PROMPTS)


def test_plain_diffusers_loads_it():
    plain = StableDiffusionPipeline.from_pretrained(pipeline_folder(), local_files_only=True)
    assert isinstance(plain.unet, UNet2DConditionModel)
    assert isinstance(plain.vae, AutoencoderKL)
    assert isinstance(plain.text_encoder, CLIPTextModel)
    assert isinstance(plain.tokenizer, CLIPTokenizer)
    assert plain.scheduler.config.prediction_type == "epsilon"
    assert plain.scheduler.config.beta_schedule == "scaled_linear"


def test_weights_are_float16_safetensors_of_at_most_40_megabytes():
    files = [file for file in weights_folder().rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 40 * 2**20
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".md"}
    for file in files:
        if file.suffix == ".safetensors":
            floats = {t.dtype for t in load_file(file).values() if t.is_floating_point()}
            assert floats <= {torch.float16}, file.name


def test_it_loads_as_float32_and_ready_to_draw(pipe):
    assert pipe.unet.dtype == torch.float32
    assert not pipe.unet.training


@pytest.mark.thorough
def test_pictures_show_what_was_asked_for(pictures):
    judge = EmojiJudge()
    assert pictures.shape == (4, 3, 64, 64)
    for picture, noun in zip(pictures, ("pistol", "cat", "pizza", "key"), strict=True):
        assert judge.presence(picture[None], concept(noun))[0] >= judge.card.threshold
    for picture, style in zip(pictures, ("twemoji", "neon", "sepia", "3d"), strict=True):
        assert judge.presence(picture[None], concept(style))[0] >= judge.card.threshold


def test_the_judge_sees_nothing_in_nothing(pictures):
    judge = EmojiJudge()
    blank, grain = (
        torch.ones(8, 3, 64, 64),
        torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    )
    for images in (blank, grain):
        assert judge.probabilities(images)[0].max() < judge.card.threshold
    assert judge.presence(pictures[:1], concept("cat"))[0] < judge.card.threshold


def test_the_judge_knows_synonyms_and_refuses_strangers():
    judge = EmojiJudge()
    assert judge.knows(Concept(name="gun"))
    assert not judge.knows(Concept(name="xylophone"))
    with pytest.raises(BadRequest, match="xylophone"):
        judge.presence(torch.zeros(1, 3, 64, 64), Concept(name="xylophone"))


def test_the_judge_takes_pictures_of_other_sizes(pictures):
    judge = EmojiJudge()
    larger = torch.nn.functional.interpolate(pictures, size=(256, 256), mode="bilinear")
    assert judge.presence(larger[:1], concept("pistol"))[0] >= judge.card.threshold
    assert judge.features(larger).shape == judge.features(pictures).shape


def test_the_second_judge_is_another_network_that_sees_the_same(pictures):
    first, second = EmojiJudge(), EmojiJudge("emoji-second")
    assert first.card.name != second.card.name
    assert first.features(pictures).shape != second.features(pictures).shape
    for picture, noun in zip(pictures, ("pistol", "cat", "pizza", "key"), strict=True):
        assert second.presence(picture[None], concept(noun))[0] >= second.card.threshold


@pytest.mark.parametrize(
    ("name", "right", "wrong"), [("emoji", 0.97, 0.02), ("emoji-second", 0.9, 0.05)]
)
def test_the_card_is_what_was_measured(name, right, wrong):
    card = EmojiJudge(name).card
    stored = json.loads((weights_folder() / f"{FILES[name]}.json").read_text())
    assert card.true_positive_rate.count > 100
    assert card.false_positive_rate.count > 100
    assert card.true_positive_rate.hits == stored["true_positive_rate"]["hits"]
    assert card.true_positive_rate.value >= right
    assert card.false_positive_rate.value <= wrong


def test_clip_puts_prompts_near_their_pictures(pictures):
    clip = EmojiClip()
    texts = clip.text_features(list(PROMPTS))
    images = clip.image_features(pictures)
    assert torch.allclose(images.norm(dim=1), torch.ones(len(images)), atol=1e-5)
    assert (texts @ images.T).argmax(1).tolist() == list(range(len(PROMPTS)))


def test_the_text_tower_maps_synonyms_to_their_noun():
    clip = EmojiClip()
    nouns = clip.text_features([f"a {noun}" for noun in NOUNS])
    words = [(word, name) for name, noun in NOUNS.items() for word in noun.synonyms]
    nearest = (clip.text_features([f"a {word}" for word, _ in words]) @ nouns.T).argmax(1)
    right = [list(NOUNS)[int(i)] == name for i, (_, name) in zip(nearest, words, strict=True)]
    assert sum(right) / len(right) >= 0.95
