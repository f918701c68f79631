"""The strip of pictures from training: in order, inside the page, and absent without any."""

from itertools import pairwise

import pytest
from PIL import Image

from efface.reports.facts import run_facts
from efface.reports.html import write_page
from efface.reports.previews import FOLDER, previews, stem_of

from .conftest import RUN
from .test_html import Page

TITLE = "The same seeds while training"


def drawn(folder, *stems):
    (folder / FOLDER).mkdir()
    for number, stem in enumerate(stems):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / FOLDER / f"{stem}.png")


def captions(folder, methods):
    return [each.caption(methods) for each in previews(folder)]


def test_pictures_are_in_the_order_they_were_drawn(tmp_path):
    drawn(tmp_path, stem_of(2, 25), stem_of(1, 10000), stem_of(1, 25), "base", "mine")
    assert captions(tmp_path, "esd") == ["before", "step 25", "step 10000", "step 25"]
    named = ["before", "trce: step 25", "trce: step 10000", "trce_vision: step 25"]
    assert captions(tmp_path, "trce+trce_vision") == named
    assert captions(tmp_path, "esd+esd")[-1] == "esd-2: step 25"


def test_of_many_pictures_some_are_shown_with_both_ends(tmp_path):
    drawn(tmp_path, "base", *(stem_of(1, step) for step in range(1, 101)))
    steps = [each.step for each in previews(tmp_path)]
    assert len(steps) == len(set(steps)) == 24
    assert (steps[0], steps[-1]) == (0, 100)
    assert {later - step for step, later in pairwise(steps)} == {4, 5}


@pytest.mark.thorough
@pytest.mark.parametrize("stems", [(), ("base", "step-0025", "step-0050")])
def test_the_page_holds_the_pictures(tmp_path, evaluation, stems):
    bare = write_page(tmp_path / "bare.html", evaluation, run_facts(evaluation, RUN))
    drawn(tmp_path, *stems)
    path = write_page(tmp_path / "report.html", evaluation, run_facts(evaluation, RUN))
    before, found = Page(bare.read_text("utf-8")), Page(path.read_text("utf-8"))
    assert (TITLE in found.text) == bool(stems)
    assert ("before step 25 step 50" in found.text) == bool(stems)
    assert len(found.links) == len(before.links) + len(stems)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in found.links)
