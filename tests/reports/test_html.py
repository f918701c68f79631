"""The page: whole in itself, safe with hostile names, honest in its words."""

import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from efface.cli.guiding import guides_of
from efface.concepts import Concept
from efface.contracts import Sample
from efface.evaluation.images import Source
from efface.reports.facts import run_facts
from efface.reports.html import _scope, write_page
from efface.reports.repeating import repeating

from .conftest import RUN, made, provenance

_FORBIDDEN = re.compile(r"deleted|certif|cannot be recovered|gdpr|guarantee", re.IGNORECASE)
_VOID = {"meta", "img", "br", "link", "path", "input"}


class Page(HTMLParser):
    """Collects visible text and attributes, and checks that tags nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.tags, self.links = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        self.events = [name for name, _ in attributes if name.startswith("on")]
        assert not self.events
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page(folder, evaluation):
    path = write_page(folder / "report.html", evaluation, run_facts(evaluation, RUN))
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_says_what_was_found(tmp_path, evaluation):
    text = page(tmp_path, evaluation).text
    assert "The judge sees pistol in 96.9 % (31 of 32) of the pictures before and 0 %" in text
    assert "84.3 to 99.4 %, 31 of 32" in text
    assert "Positive control passed" in text
    assert "unknown: nobody has measured it" in text  # the judge's false positives
    assert "may be up to 9.4 % (rule of three, 95 %)" in text
    assert "Not tested: adversarial prompts" in text
    assert (
        "efface erase rece --model emoji --concept pistol --keep cat --keep sword --rounds 5"
        in text
    )


def test_the_page_loads_nothing_and_runs_nothing(tmp_path, evaluation):
    found = page(tmp_path, evaluation)
    assert found.open == []
    assert "script" not in found.tags
    assert "link" not in found.tags
    assert found.links
    inside = [link for link in found.links if link.startswith("#")]
    assert all(
        link.startswith("data:image/png;base64,") for link in found.links if link not in inside
    )
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{link[1:]}"' in source for link in inside)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http:" not in source
    assert "https:" not in source
    assert "url(" not in source
    assert "prefers-color-scheme: dark" in source
    assert 'name="viewport"' in source


def test_the_page_never_claims_more_than_suppression(tmp_path, evaluation):
    text = page(tmp_path, evaluation).text
    assert not _FORBIDDEN.search(text)
    assert "suppressed only as far as the tests listed here show" in text


def test_hostile_names_stay_text(tmp_path):
    attack = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    concept = Concept(name=attack)
    evil = made(
        tmp_path,
        samples=(Sample(attack, 0, "erased", concept),),
        reasons=(attack,),
        provenance=provenance(attack),
    )
    found = page(tmp_path, evil)
    assert "script" not in found.tags
    assert attack in found.text


@pytest.mark.parametrize("verdict", ["inconclusive", "invalid"])
def test_other_verdicts_are_said_first(tmp_path, verdict):
    changes = {"measurements": ()} if verdict == "invalid" else {}
    found = page(tmp_path, made(tmp_path, verdict=verdict, reasons=("the judge fell",), **changes))
    opening = found.text[:400]
    assert verdict in opening
    assert "the judge fell" in opening
    if verdict == "invalid":
        assert "could not be measured" in opening
        assert "96.9 %" not in found.text


def test_an_unedited_model_has_a_page_too(tmp_path):
    alone = made(tmp_path, after=None, changed=(), measurements=(), provenance={})
    found = page(tmp_path, alone)
    assert "before" in found.text
    assert found.links


def test_methods_in_turn_are_repeated_from_their_run(tmp_path):
    turns = {**provenance(), "method": "uce+esd", "settings": {"uce": {}, "esd": {"steps": 3}}}
    turns["settings_given"] = ["esd"]
    found = page(tmp_path, made(tmp_path, provenance=turns))
    assert "--esd.steps 3 --seed 7 --out runs/again efface evaluate" in found.text


def test_the_scope_reads_right_for_one_thing_and_for_several(evaluation):
    scope = dict(_scope(evaluation, run_facts(evaluation, RUN)))["Scope"]
    assert scope == "to go from a text-to-image model: pistol; to stay: cat, sword"


AGAIN = "efface erase uce --out runs/again"


def test_what_was_measured_at_another_size_is_repeated_at_that_size(evaluation):
    assert repeating(evaluation, AGAIN) == (AGAIN, "efface evaluate runs/again")
    assert repeating(evaluation, "") == ()
    short = replace(evaluation, suite="emoji-short@1")
    measured = (f"{AGAIN} --no-evaluate", "efface evaluate runs/again --size short")
    assert repeating(short, AGAIN) == measured


def test_what_was_measured_with_guides_is_repeated_with_them(evaluation):
    guides = json.dumps([["safree", 1, {"concepts": ["pistol", "gun"], "strength": 0.5}]])
    steered = Source("0123456789abcdef", "fedcba9876543210", 20, 4.0, guides=guides)
    first, second = repeating(replace(evaluation, after=steered), AGAIN)
    assert first.endswith(" --no-evaluate")
    _, (guide,) = guides_of(shlex.split(second)[3:])
    assert (guide.concepts, guide.strength) == (("pistol", "gun"), 0.5)


@pytest.mark.thorough
def test_a_delta_of_added_layers_changes_no_parameter(tmp_path):
    found = page(tmp_path, made(tmp_path, changed=()))
    assert "none of the model's; the delta adds layers beside them" in found.text
    assert "0 tensors" not in found.text


def test_missing_pictures_leave_no_broken_images(tmp_path, evaluation):
    for picture in (tmp_path / "pictures").rglob("*.png"):
        picture.unlink()
    found = page(tmp_path, evaluation)
    assert "img" not in found.tags
    assert "Same prompt, same seed" not in found.text


@pytest.mark.thorough
def test_the_page_and_the_card_list_where_a_concept_went(evaluation, tmp_path):
    import json
    from dataclasses import replace

    from efface.evaluation.record import Evaluation, Sighting
    from efface.reports import write_report

    seen = (Sighting("pistol", "<b>axe</b>", 1, 30, 32), Sighting("pistol", "pistol", 31, 0, 32))
    found = replace(evaluation, sightings=seen)
    write_report(tmp_path, found, {"diagnostics": {"notes": ["learnt from 8 pictures"]}})
    page = (tmp_path / "report.html").read_text()
    assert "Where it went" in page
    assert "&lt;b&gt;axe&lt;/b&gt;</th>" in page
    assert "<dt>Note</dt><dd>learnt from 8 pictures</dd>" in page
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["went_to"][0] == {
        "concept": "pistol",
        "name": "<b>axe</b>",
        "before": 1,
        "after": 30,
        "count": 32,
    }
    assert "- learnt from 8 pictures" in (tmp_path / "card.md").read_text()
    found.save(tmp_path / "kept")
    assert Evaluation.load(tmp_path / "kept").sightings == seen
