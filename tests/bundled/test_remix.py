"""emoji-remix: the bundled model's fine-tune, its pictures, its judge, and deltas carried to it."""

import json

import pytest
import torch

import efface
from efface import registry
from efface.bundled.judge import EmojiJudge
from efface.bundled.remix import turned
from efface.bundled.vocabulary import concept
from efface.cli.choosing import Choosing, choose
from efface.cli.main import main
from efface.errors import BadDelta
from efface.runs.transfer import distance, transferred
from efface.workbench import measuring, runs
from tests.bundled.pictures import drawn

NOUNS = ("cat", "pizza", "car", "umbrella", "crown", "frog", "apple", "rocket")


@pytest.fixture(scope="module")
def remix():
    loaded = efface.load("emoji-remix")
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def pictures(remix):
    return drawn(remix, [f"a {noun}, twemoji style" for noun in NOUNS])


def test_turning_twice_changes_nothing_and_once_makes_white_black():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(turned(turned(images)), images, atol=1e-6)
    assert turned(torch.ones(1, 3, 2, 2)).abs().max() == 0
    red = torch.tensor([0.9, 0.3, 0.3]).view(1, 3, 1, 1).expand(1, 3, 1, 2).clone()
    red[..., 1] = 0.5
    # lightness 0.6 becomes 0.4, at the other side; red stays red
    assert turned(red)[0, :, 0, 1].tolist() == pytest.approx([0.7, 0.1, 0.1])
    between = turned(images)
    assert between.min() >= -1e-6
    assert between.max() <= 1 + 1e-6


def test_it_is_the_base_with_other_weights_and_the_same_text_encoder(remix):
    base = efface.load("emoji")
    for part in ("unet", "vae"):
        pairs = zip(
            getattr(base, part).parameters(), getattr(remix, part).parameters(), strict=True
        )
        assert any(not torch.equal(one, other) for one, other in pairs)
    encoders = (base.text_encoder.parameters(), remix.text_encoder.parameters())
    assert all(torch.equal(one, other) for one, other in zip(*encoders, strict=True))


@pytest.mark.slow
def test_it_draws_the_same_things_on_dark_grounds(pictures):
    judge = EmojiJudge("emoji-remix")
    seen = [
        float(judge.presence(picture[None], concept(noun))) >= judge.card.threshold
        for picture, noun in zip(pictures, NOUNS, strict=True)
    ]
    assert sum(seen) >= 6
    corners = pictures[:, :, :4, :4].mean(dim=(1, 2, 3))
    assert corners.median() < 0.25


def test_its_judge_is_the_first_one_on_pictures_turned_back():
    pictures = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    first, own = EmojiJudge(), EmojiJudge("emoji-remix")
    cat = concept("cat")
    assert torch.equal(own.presence(pictures, cat), first.presence(turned(pictures), cat))
    assert torch.equal(own.features(pictures), first.features(turned(pictures)))
    assert own.card.true_positive_rate == first.card.true_positive_rate
    assert own.card.name == "emoji-remix-judge"


@pytest.mark.slow
def test_an_edit_of_the_base_works_on_it_when_it_is_transferred(remix):
    delta = efface.erase(efface.load("emoji"), "pizza", method="uce").delta
    with pytest.raises(BadDelta, match="load the base it was made for"):
        delta.apply(remix)
    assert distance(delta, remix) > 0.01
    before = [weight.clone() for weight in remix.unet.parameters()]
    with transferred(delta, remix).apply(remix):
        changed = [
            not torch.equal(*pair) for pair in zip(before, remix.unet.parameters(), strict=True)
        ]
    assert any(changed)


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    """A run on the base and one made of it for emoji-remix."""
    folder = tmp_path_factory.mktemp("transfer")
    first, second = folder / "base", folder / "remix"
    erase = ["erase", "uce", "--concept", "pizza", "--no-evaluate", "--no-smoke"]
    assert main([*erase, "--out", str(first)]) == 0
    assert main(["transfer", str(first), "--model", "emoji-remix", "--out", str(second)]) == 0
    return first, second


@pytest.mark.slow
def test_the_verb_writes_a_run_of_the_fine_tune(carried, capsys):
    first, second = carried
    recipe = runs.recipe_of(second)
    assert recipe.model == "emoji-remix"
    assert measuring.suite_of(measuring.Plan(), recipe).judge == "emoji-remix"
    assert main(["transfer", str(first), "--model", "emoji-remix", "--out", str(second)]) == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_carried_run_is_measured_like_any_other(carried):
    _, second = carried
    assert main(["evaluate", str(second), "--size", "smoke"]) == 0
    found = json.loads((second / "evaluation.json").read_text())
    assert found["judge"]["name"] == "emoji-remix-judge"


@pytest.mark.thorough
def test_an_erasure_on_it_takes_the_presets_of_the_base(remix):
    delta = efface.erase(remix, "pizza", method="uce").delta
    assert delta.provenance.recipe["preset"] == "emoji"
    assert delta.provenance.base_model == "emoji-remix"
    _, choice = choose("uce", ["--concept", "pizza", "--model", "emoji-remix"], Choosing)
    assert choice.preset == "emoji"
    assert choice.method == registry.build("methods", "uce", preset="emoji")


def test_it_has_no_folder_of_its_own(capsys, tmp_path):
    copy = ["apply", "--model", "emoji-remix", "--in-place-copy", str(tmp_path / "copy")]
    assert main([copy[0], str(tmp_path / "none.safetensors"), *copy[1:]]) == 2
    assert main(["plan", "uce", "--concept", "cat", "--model", "emoji-remix"]) == 2
    assert "emoji-remix is not a folder" in capsys.readouterr().err
