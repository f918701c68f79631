"""Which pictures check the judge, and what the checks demand."""

import dataclasses

import pytest

from efface.concepts import Concept, request
from efface.contracts import Sample
from efface.errors import BadRequest, MissingInput
from efface.evaluation.comparison import wanted
from efface.evaluation.controls import unrelated, verdict_of
from efface.evaluation.encoding import decoded, encoded
from efface.evaluation.record import Control, Evaluation
from efface.evaluation.samples import GOING, crossed, in_role
from efface.evaluation.scores import Measure, Row, ScoreBook
from efface.evaluation.suites import basic_suite, suite_for
from efface.metrics.clip_score import ClipScore
from efface.metrics.presence import Presence
from efface.metrics.style_presence import StylePresence

from .conftest import CAT, PISTOL, small_suite

PENCIL = Concept(name="pencil", kind="style")
PIXEL = Concept(name="pixel", kind="style")


def control(*, passed):
    return Control(name="positive", concept="x", passed=passed, estimate=None, requirement="r")


def test_verdicts():
    assert verdict_of([], [control(passed=True)]) == ("valid", ())
    assert verdict_of([], [control(passed=False)])[0] == "inconclusive"
    assert verdict_of(["broke", "broke"], [control(passed=False)]) == ("invalid", ("broke",))


def test_unrelated_pictures_are_kept_and_general_ones():
    samples = small_suite().samples
    assert {one.concept for one in unrelated(PISTOL, samples)} == {CAT}
    near = Sample("a sword", 0, "neighbour", Concept(name="sword"))
    without = (*in_role(samples, "erased"), near)
    assert unrelated(PISTOL, without) == (near,)


def test_unrelated_to_a_style_is_what_asks_for_another_style():
    free = Sample("a cat", 0, "kept", CAT)
    other = Sample("a pixel cat", 0, "kept", CAT, PIXEL)
    same = Sample("a pencil cat", 0, "kept", CAT, PENCIL)
    judged = Sample("pixel art", 0, "general", PIXEL)
    assert unrelated(PENCIL, (free, other, same, judged)) == (other, judged)
    assert unrelated(PENCIL, (free, same)) == (free,)


def test_better_turns_around_for_what_is_to_go():
    for role in GOING:
        assert wanted(Presence, role) == wanted(ClipScore, role) == "lower"
        assert wanted(StylePresence, role) == "higher"
    assert wanted(Presence, "neighbour") == "higher"


def test_samples_have_stable_ids():
    """The id names a picture for ever; if this changes, every stored picture is orphaned."""
    (sample,) = crossed(["a cat"], [3], role="kept", concept=CAT)
    assert sample.id == dataclasses.replace(sample).id
    assert len({sample.id, *(one.id for one in crossed(["a cat"], [4], role="kept"))}) == 2


def test_basic_suite_covers_names_synonyms_and_kept():
    pistol = Concept(name="pistol", synonyms=("revolver",))
    suite = basic_suite(request(pistol, keep=["cat"]), size="smoke")
    assert (suite.name, suite.version) == ("basic", 2)
    prompts = {
        role: {one.prompt for one in in_role(suite.samples, role)}
        for role in ("erased", "synonym", "kept", "general")
    }
    assert "a photo of a pistol" in prompts["erased"]
    assert all("revolver" in prompt for prompt in prompts["synonym"])
    assert not any("revolver" in prompt for prompt in prompts["erased"])
    assert all("cat" in prompt for prompt in prompts["kept"])
    assert len(prompts["general"]) == 6
    assert len({one.id for one in suite.samples}) == len(suite.samples)


def test_kept_things_stand_two_in_one_picture():
    kept = [Concept(name=name) for name in ("cat", "owl", "frog")]
    ink, ann = Concept(name="ink", kind="style"), Concept(name="Ann", kind="person")
    suite = basic_suite(request("pistol", keep=[*kept, ink, ann]), size="smoke")
    drawn = in_role(suite.samples, "composition")
    assert [one.prompt for one in drawn[::2]] == [
        "a photo of a cat and a owl",
        "a photo of a owl and a frog",
        "a photo of a frog and Ann",
        "a photo of Ann and a cat",
    ]
    assert [one.subject for one in drawn[-2:]] == ["Ann and cat"] * 2
    alone = basic_suite(request("pistol", keep=["cat", ink]), size="smoke")
    assert not in_role(alone.samples, "composition")


def test_unknown_suites_and_sizes_are_refused():
    with pytest.raises(BadRequest, match="no suite called 'nudity'; known: basic, emoji, scenes"):
        suite_for("nudity", request("pistol"))
    with pytest.raises(BadRequest, match="'huge' is no size"):
        suite_for("basic", request("pistol"), size="huge")


def test_score_books_survive_a_kill_in_the_middle_of_a_line(tmp_path):
    book = ScoreBook(tmp_path)
    measure = Measure("presence by somebody", "1234")
    book.add({Row("src", "one", "ab", measure): 0.5, Row("other", "two", "cd", measure): 0.25})
    book.add({Row("src", "nan", "ef", measure): float("nan")})
    path = tmp_path / "src" / "scores.jsonl"
    path.write_text(path.read_text() + '\n["three", "pres')
    again = ScoreBook.open(tmp_path, ["src", "other"])
    assert again.scores == book.scores
    assert len(again.scores) == 2
    third = Row("src", "three", "ab", measure)
    again.add({third: 1.0})
    assert ScoreBook.open(tmp_path, ["src"]).scores[third] == 1.0


def test_encoding_keeps_nested_concepts_and_writes_nan_as_null():
    sample = Sample("a cat", 1, "kept", Concept(name="cat", synonyms=("kitty",)), PIXEL)
    assert decoded(Sample, encoded(sample)) == sample
    assert encoded({"x": float("nan"), "y": (1, float("inf"))}) == {"x": None, "y": [1, None]}


def test_broken_and_newer_files_are_refused(tmp_path):
    with pytest.raises(MissingInput, match="run an evaluation first"):
        Evaluation.load(tmp_path)
    path = tmp_path / "evaluation.json"
    for content in ("{", "[]", '{"format": 1}'):
        path.write_text(content)
        with pytest.raises(BadRequest, match="run the evaluation again"):
            Evaluation.load(tmp_path)
    path.write_text('{"format": 99}')
    with pytest.raises(BadRequest, match="newer version of efface"):
        Evaluation.load(tmp_path)
