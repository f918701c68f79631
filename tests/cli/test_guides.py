"""Guides on the command line: settings, presets, what is told, and what is refused."""

import pytest
from PIL import Image

from tests.cli.test_bad_input import refused

CAT = ("--prompt", "a cat", "--steps", "4", "--guidance", "3")


def drawn(efface, model, out, *more):
    return efface("generate", "--model", model, *CAT, "--out", out, *more)


def test_guides_are_listed(efface):
    listed = efface("list", "guides")
    assert listed.code == 0
    for name in ("negative", "sld", "sega", "nag", "safree"):
        assert name in listed.out


@pytest.mark.thorough
def test_a_picture_is_drawn_with_a_guide_and_its_settings(efface, model, tmp_path):
    plain, led, off = (tmp_path / f"{name}.png" for name in ("plain", "led", "off"))
    assert drawn(efface, model, plain).code == 0
    guide = ("--guide", "sld", "--sld.preset", "max", "--sld.concepts", "a red house", "dog")
    outcome = drawn(efface, model, led, *guide)
    assert outcome.code == 0, outcome
    assert "network evaluations: 16 per picture" in outcome.out
    told = drawn(efface, model, led, *guide, "--sld.strength", "3", "--json").json
    (record,) = told["guides"]
    assert record["settings"]["concepts"] == ["a red house", "dog"]
    assert (record["settings"]["strength"], record["settings"]["threshold"]) == (3.0, 1.0)
    assert record["changes"][0] > 1e-3
    assert told["evaluations"] == [16.0]
    still = drawn(efface, model, off, *guide, "--sld.strength", "0")
    assert "sld left 1 of 1 pictures alone" in still.out
    pixels = [Image.open(path).tobytes() for path in (plain, led, off)]
    assert pixels[0] == pixels[2] != pixels[1]


@pytest.mark.thorough
def test_several_guides_and_a_runs_delta(efface, a_run, tmp_path):
    out = tmp_path / "picture.png"
    guides = ("--guide", "nag", "--nag.text", "pistol", "--guide", "sega", "--sega.remove", "dog")
    outcome = efface("apply", a_run, *CAT, "--out", out, *guides, "--json")
    assert outcome.code == 0, outcome
    assert [each["guide"] for each in outcome.json["guides"]] == ["nag", "sega"]
    # Three branches a step, and once the prompt without nag.
    assert outcome.json["evaluations"] == [13.0]


@pytest.mark.thorough
def test_a_guide_that_does_nothing_says_so(efface, model, tmp_path):
    outcome = drawn(efface, model, tmp_path / "x.png", "--guide", "nag", "--nag.text", "a cat")
    assert outcome.code == 0
    assert "nag changed nothing beyond rounding in 1 of 1 pictures" in outcome.out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--guide", "slt"), "there is no guide called 'slt'; did you mean sld"),
        (("--guide", "sld"), "sld has nothing to steer by; give it concepts"),
        (("--sld.strength", "3"), "--strength is a setting of sld; add --guide sld"),
        (("--guide", "sld", "--guide", "sld"), "--guide sld is given twice"),
        (("--guide", "sld", "--sld.strenght", "3"), "did you mean --strength"),
        (("--guide", "sld", "--sld.preset", "midium"), "did you mean medium"),
        (("--guide", "sld", "--sld.concepts", "x", "--guidance", "1"), "which is off"),
        (
            (
                "--guide",
                "sld",
                "--sld.concepts",
                "x",
                "--guide",
                "negative",
                "--negative.text",
                "y",
            ),
            "sld and negative both say what the sampler steps along",
        ),
        (
            ("--guide", "negative", "--negative.text", "y", "--negative.start", "0.8"),
            "works from 0.8 to 1 of a run, and none of 4 steps fall there",
        ),
    ],
)
def test_what_cannot_work_is_one_line(efface, model, tmp_path, flags, told):
    refused(drawn(efface, model, tmp_path / "x.png", *flags), told)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.slow
def test_a_run_is_measured_with_a_guide(efface, tmp_path):
    """The erasure card says with which, and of what the numbers are."""
    run = tmp_path / "run"
    erase = ("erase", "uce", "--concept", "pistol", "--size", "smoke", "--out", run)
    assert efface(*erase).code in (0, 1)
    flags = ("--guide", "safree", "--safree.concepts", "pistol")
    outcome = efface("evaluate", run, "--size", "smoke", *flags)
    assert outcome.code in (0, 1), outcome
    assert "drawn with safree (concepts pistol), so this is what both did together" in " ".join(
        outcome.out.split()
    )
    assert "drawn with safree" in (run / "card.md").read_text()


def test_a_model_that_reads_pictures_has_nothing_to_steer(efface):
    refused(efface("generate", "--model", "icons-vit", *CAT, "--out", "x.png"), "icons-vit")
