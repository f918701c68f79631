"""An evaluation with guides: pictures of their own, and a record and pages that say so."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from efface import reports
from efface.errors import BadRequest
from efface.evaluation import Evaluation, evaluate
from efface.evaluation.drawing import draw_guided
from efface.evaluation.images import Source
from efface.guiding.drawing import guide
from efface.guiding.records import rebuilt, recorded
from efface.reports.guides import guides
from tests.conftest import shared

from .conftest import STEPS, small_suite

SLD = guide("sld", concepts=("dog",), warm_up=0.0)


def test_a_record_of_guides_gives_the_same_guides_or_is_refused():
    both = [SLD, guide("nag", text="a cat")]
    assert rebuilt(recorded(both)) == both
    assert recorded([]) == ""
    assert rebuilt("") == []
    older = recorded([SLD]).replace('["sld", 1,', '["sld", 0,')
    with pytest.raises(BadRequest, match="sld is at revision 1 and the record has 0"):
        rebuilt(older)


def test_sources_without_guides_keep_their_names():
    """Pictures that were drawn before there were guides are found again."""
    assert Source("model", None, 2, 2.0).key == Source("model", None, 2, 2.0, "").key
    assert Source("model", None, 2, 2.0).key == "a6783f3a9b8d3216"
    assert Source("model", None, 2, 2.0, recorded([SLD])).key != "a6783f3a9b8d3216"


@pytest.mark.thorough
def test_an_evaluation_with_a_guide_says_so_everywhere(pipe, delta, judge, tmp_path):
    plain = evaluate(pipe, delta, small_suite(), judge, store=tmp_path / "pictures")
    found = evaluate(pipe, delta, small_suite(), judge, store=tmp_path / "pictures", guides=[SLD])
    assert found.before == plain.before
    assert found.after.guides == recorded([SLD])
    assert found.costs["after"].network_evaluations == 6 * STEPS * 3
    sample = found.samples[0]
    assert found.picture(sample, edited=True) != plain.picture(sample, edited=True)
    found.save(tmp_path)
    loaded = Evaluation.load(tmp_path)
    assert guides(loaded) == "sld (concepts dog; warm up 0.0)"
    reports.write_report(tmp_path, loaded, None)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["scope"]["guides"][0][2]["concepts"] == ["dog"]
    for page in ("card.md", "report.html"):
        text = (tmp_path / page).read_text()
        assert "drawn with sld" in text
        assert "guides of sampling, which are not in the weights" in text


@pytest.mark.thorough
def test_pictures_that_a_guide_did_not_change_are_noted(pipe, delta, judge, tmp_path):
    nag = guide("nag", text="a photo of a cat")
    found = evaluate(pipe, delta, small_suite(), judge, store=tmp_path, guides=[nag])
    assert "nag changed nothing beyond rounding in 2 pictures" in " ".join(found.notes)


@pytest.mark.thorough
def test_pictures_are_drawn_as_without_a_guide_that_is_off(pipe, delta, judge, tmp_path):
    off = dataclasses.replace(SLD, strength=0.0)
    found = evaluate(pipe, delta, small_suite(), judge, store=tmp_path, guides=[off])
    plain = evaluate(pipe, delta, small_suite(), judge, store=tmp_path)
    for sample in found.samples:
        ours, theirs = (pixels(each.picture(sample, edited=True)) for each in (found, plain))
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_guidance_that_is_not_the_same_on_both_sides_is_refused():
    with pytest.raises(BadRequest, match="guidance is not used: this pipeline draws without"):
        draw_guided(shared("tiny_flux"), small_suite().samples[:1], [SLD], steps=2, guidance=3.0)


def test_guides_alone_are_no_erasure(pipe, judge, tmp_path):
    with pytest.raises(BadRequest, match="guides are measured on an erased model"):
        evaluate(pipe, None, small_suite(), judge, store=tmp_path, guides=[SLD])
