"""Pictures that a user gives: how they are named, refused, written down and compared."""

import json

import pytest
from PIL import Image

from efface.concepts import request
from efface.errors import BadRequest
from efface.runs.recipe_records import recipe_from
from efface.runs.words import Words, words_of
from tests.cli.test_bad_input import refused

SHORT = ("--steps", "1", "--epochs", "0", "--learning-rate", "1e-3")


@pytest.fixture
def icons(tmp_path):
    place = tmp_path / "icons"
    place.mkdir()
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (16, 16), colour).save(place / f"{number}.png")
    (place / ".hidden").write_text("no picture, and not looked at", encoding="utf-8")
    return place


def erased(efface, model, out, *more, method="few_shot"):
    flags = ("--concept", "pistol", "--model", model, "--out", out)
    return efface("erase", method, *flags, *SHORT[: None if method == "few_shot" else 0], *more)


@pytest.mark.thorough
def test_a_run_holds_where_its_pictures_are_and_what_they_were(efface, model, icons, tmp_path):
    out = tmp_path / "run"
    outcome = erased(efface, model, out, "--images", icons)
    assert outcome.code == 0, outcome
    assert "learnt from 2 given pictures" in outcome.out
    assert "stopped: all 1 steps were done" in outcome.out
    record = json.loads((out / "run.json").read_text())
    (content,) = record["recipe"]["pictures"].values()
    assert record["recipe"]["pictures"] == {str(icons): content}
    command = recipe_from(record).command()
    assert f"--images {icons} --images-hash {content}" in command
    header = record["request"]["erasures"][0]["concept"]["images"]
    assert header == [f"sha256:{content}"]
    again = efface("rerun", out)
    assert again.code == 0, again
    assert "\nequal (first" in again.out
    Image.new("RGB", (16, 16), "green").save(icons / "2.png")
    refused(efface("rerun", out), f"the pictures at {icons} are others", content)
    other = tmp_path / "other"
    refused(erased(efface, model, other, "--images", icons, "--images-hash", content), "are others")
    assert not other.exists()


@pytest.mark.thorough
def test_pictures_that_cannot_be_used_are_one_line(efface, model, icons, tmp_path):
    out = tmp_path / "run"

    def tried(*more, method="few_shot"):
        return erased(efface, model, out, *more, method=method)

    refused(tried("--images", tmp_path / "nowhere"), "there are no pictures at", "nowhere")
    (tmp_path / "empty").mkdir()
    refused(tried("--images", tmp_path / "empty"), "is empty; put 3 to 10 pictures")
    refused(tried("--pictures", "given"), "no pictures of 'pistol'", "--images FOLDER")
    refused(tried("--images", icons, method="esd"), "esd learns from no pictures")
    refused(tried("--images", icons, "--images-hash", "1", "--images-hash", "2"), "2 hashes")
    (icons / "notes.txt").write_text("pistols", encoding="utf-8")
    refused(tried("--images", icons), "notes.txt is not a picture; pictures end in .png")
    (icons / "notes.txt").rename(icons / "notes.png")
    refused(tried("--images", icons), "notes.png cannot be read")
    (icons / "notes.png").unlink()
    (icons / "more").mkdir()
    refused(tried("--images", icons), "more is a folder among pictures")
    assert not out.exists()


def test_a_plan_tells_the_pictures_and_what_of_the_encoder_is_trained(efface, model, icons):
    outcome = efface(
        "plan", "few_shot", "--concept", "pistol", "--model", model, "--images", icons, "--json"
    )
    assert outcome.code == 0, outcome
    told = outcome.json
    assert list(told["pictures"]) == [str(icons)]
    assert told["part"] == "text_encoder"
    assert told["parameters"] == 2 * (2 * 32 * 64 + 64 + 32) + 4 * (32**2 + 32)


def test_pictures_of_several_concepts_say_whose_they_are():
    words = Words(concepts=("pistol", "cat"), images=("pistol=a", "cat=b", "cat=c"))
    made = words.request()
    places = [[str(place) for place in each.concept.images] for each in made.erasures]
    assert places == [["a"], ["b", "c"]]
    assert words_of(made, "") == words
    with pytest.raises(BadRequest, match="--images 'pistol=d'"):
        Words(concepts=("pistol", "cat"), images=("d",)).request()
    assert words_of(request("pistol"), "").images == ()
