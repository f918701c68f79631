"""Pictures on the page: what filters hide, how orders sort, and that no policy refuses them."""

import base64
import hashlib
import math
import re
from dataclasses import replace

import pytest
from PIL import Image

from efface.concepts import Concept
from efface.contracts import Sample
from efface.evaluation.record import Measurement
from efface.metrics.estimates import rate
from efface.reports import gallery as galleries
from efface.reports.collateral import collateral
from efface.reports.facts import run_facts
from efface.reports.gallery import gallery
from efface.reports.html import write_page

from .conftest import RUN, made


def answered(folder):
    """Forty pictures, eight a role; what each scored before and after is its place by 100."""
    found = made(folder)
    before = tuple(0.9 for _ in found.samples)
    after = [n / 100 for n in range(len(found.samples))]
    after[0], after[1], after[16], after[24] = 0.7, math.nan, 0.8, 0.1
    return replace(found, answers={"presence before": before, "presence after": tuple(after)})


def test_a_score_that_is_next_to_nothing_has_no_exponent(tmp_path):
    found = answered(tmp_path)
    columns = {**found.answers, "presence after": (5.46e-07,) * len(found.samples)}
    wall, *_ = gallery(replace(found, answers=columns)).walls
    assert {score.after for card in wall.cards for score in card.scores} == {"under 0.001"}


def written(folder, evaluation):
    path = write_page(folder / "report.html", evaluation, run_facts(evaluation, RUN))
    return path.read_text("utf-8")


def test_every_picture_says_what_became_of_it(tmp_path):
    erased, synonym, neighbour, kept, general = gallery(answered(tmp_path)).walls
    told = [card.finding for card in erased.cards]
    assert told == ["still there", "not scored"] + ["as wanted"] * 6
    assert [card.finding for card in neighbour.cards][:2] == ["as wanted", "lost"]
    assert kept.cards[0].finding == "lost"
    assert [wall.drawn for wall in (erased, synonym, kept, general)] == [8, 8, 8, 8]


def test_scores_are_shown_and_missing_ones_are_not_made_up(tmp_path):
    cards = gallery(answered(tmp_path)).walls[0].cards
    (score,) = cards[0].scores
    assert (score.name, score.before, score.after) == ("Concept in the picture", "0.9", "0.7")
    assert cards[1].scores[0].after == ""


def test_orders_rank_by_score_and_the_unscored_come_last(tmp_path):
    found = gallery(answered(tmp_path))
    assert [sort.label for sort in found.sorts] == [
        "Concept in the picture after, highest first",
        "Concept in the picture after, lowest first",
    ]
    ranks = {
        int(name): (int(high), int(low))
        for name, high, low in re.findall(r"#p(\d+){--o0:(\d+);--o1:(\d+)}", found.rules)
    }
    assert len(ranks) == 40
    assert ranks[16] == (0, 38)  # 0.8 is the highest of 39 scores
    assert ranks[2] == (38, 0)  # 0.02 is the lowest
    assert ranks[1] == (39, 39)


def test_the_page_admits_its_own_style_and_nothing_else(tmp_path):
    source = written(tmp_path, answered(tmp_path))
    (style,) = re.findall(r"<style>(.*?)</style>", source, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', source)
    policy = policy.replace("&#39;", "'")
    assert policy.startswith(f"default-src 'none'; img-src data:; style-src 'sha256-{digest}';")
    assert " style=" not in source
    assert "<script" not in source


def test_every_choice_has_its_rule(tmp_path):
    source = written(tmp_path, answered(tmp_path))
    ids = re.findall(r'<input type="radio" name="\w+" id="([^"]+)"', source)
    assert {"role-erased", "finding-lost", "view-over"} <= set(ids)
    for name in ids:
        if not name.endswith(("-all", "-beside")):
            assert f"#{name}:checked" in source, name


def test_names_of_styles_never_reach_the_rules(tmp_path):
    evil = "x</style><script>alert(1)</script>"
    found = made(tmp_path)
    styles = [Concept(name=name, kind="style") for name in (evil, "neon")]
    samples = tuple(
        Sample(one.prompt, one.seed, one.role, one.concept, styles[one.seed % 2])
        for one in found.samples
    )
    source = written(tmp_path, made(tmp_path, samples=samples))
    assert "<script" not in source
    assert source.count("</style>") == 1
    assert "x&lt;/style&gt;" in source


@pytest.mark.slow
def test_heavy_pictures_are_made_smaller_and_fewer(tmp_path, monkeypatch):
    found = made(tmp_path)
    noise = Image.effect_noise((600, 600), 80)
    for path in (tmp_path / "pictures").rglob("*.png"):
        noise.save(path)
    monkeypatch.setattr(galleries, "BUDGET", 1_500_000)
    shown = gallery(found)
    weight = sum(len(c.before) + len(c.after) for wall in shown.walls for c in wall.cards)
    assert 0 < weight < 1.2 * 1_500_000  # the weight of all is told from a few
    assert shown.walls[0].cards[0].before.startswith(("data:image/webp", "data:image/png"))


def test_things_that_stay_are_listed_by_what_they_lost(tmp_path):
    def kept(concept, hits):
        first, second = [1.0] * 8, [1.0] * hits + [0.0] * (8 - hits)
        return Measurement(
            metric="presence",
            unit="rate",
            better="higher",
            role="kept",
            concept=concept,
            before=rate(first),
            after=rate(second),
        )

    found = made(tmp_path, measurements=(kept("cat", 8), kept("<i>owl", 2), kept("dog", 7)))
    told = collateral(found)
    assert told.sentence.startswith("2 of 3 things")
    assert [one.concept for one in told.first] == ["<i>owl", "dog", "cat"]
    assert told.first[0].after == "25 % (2 of 8)"
    assert "&lt;i&gt;owl" in written(tmp_path, found)
    assert collateral(made(tmp_path)) is None


@pytest.mark.parametrize(("kind", "word"), [("detector", "things"), ("generator", "pictures")])
def test_pages_say_what_was_counted(tmp_path, kind, word):
    source = written(tmp_path, made(tmp_path, model_kind=kind))
    assert f"40 {word} per model" in source
    assert f"<dt>{word.capitalize()} before</dt>" in source


def test_pictures_of_recognisers_are_not_called_not_scored(tmp_path):
    found = made(tmp_path, model_kind="classifier")
    assert "not scored" not in written(tmp_path, replace(found, answers={}))
