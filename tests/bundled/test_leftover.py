"""The judge of leftovers: what it is, what its card says, and where its answers are reported."""

import json
from dataclasses import replace

import pytest
import torch

import efface
from efface.bundled import weights_folder
from efface.bundled.judge import FILES, LEFTOVER, EmojiJudge
from efface.bundled.suites import emoji_suite
from efface.bundled.vocabulary import STYLES, concept
from efface.contracts import Judge, JudgeCard, Sample
from efface.errors import BadRequest
from efface.evaluation.instruments import instruments_for
from efface.metrics.estimates import UNKNOWN
from efface.metrics.leftover import Leftover


class Plain:
    card = JudgeCard("plain", "1", 0.5, UNKNOWN, UNKNOWN)

    def knows(self, concept):
        return concept.kind != "style"

    def presence(self, images, concept):
        return images.mean(dim=(1, 2, 3))


def test_it_is_the_first_judge_at_a_lower_threshold():
    first = EmojiJudge()
    second = first.leftovers
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        first.presence(images, concept("cat")), second.presence(images, concept("cat"))
    )
    assert second.card.threshold < first.card.threshold
    assert second.card.name != first.card.name
    assert second.leftovers is second


def test_the_fine_tunes_pictures_are_turned_back_for_it():
    judge = EmojiJudge("emoji-remix")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    same = judge.leftovers.presence(images, concept("cat"))
    assert torch.equal(judge.presence(images, concept("cat")), same)


def test_it_knows_nouns_and_no_styles():
    judge = EmojiJudge("emoji-leftover")
    assert judge.knows(concept("cat"))
    assert not judge.knows(concept("neon"))
    with pytest.raises(BadRequest, match="emoji-leftover-judge cannot recognise 'neon'"):
        judge.presence(torch.zeros(1, 3, 64, 64), concept("neon"))


def test_its_card_holds_the_bar_in_neon_and_blueprint():
    card = EmojiJudge("emoji-leftover").card
    assert card.true_positive_rate.count > 100
    assert card.false_positive_rate.count > 100
    assert card.false_positive_rate.value <= 0.05
    for style in ("neon", "blueprint"):
        assert card.leftovers_missed[style].count >= 40
        assert card.leftovers_missed[style].value <= 0.05


def test_the_cards_say_what_each_judge_misses_by_style():
    for name, file in (*FILES.items(), ("emoji-leftover", LEFTOVER)):
        card = EmojiJudge(name).card
        stored = json.loads((weights_folder() / f"{file}.json").read_text())
        assert set(card.leftovers_missed) <= {*STYLES, "all"}
        missed = {style: rate.hits for style, rate in card.leftovers_missed.items()}
        assert missed == {s: rate["hits"] for s, rate in stored["leftovers_missed"].items()}


def test_the_metric_asks_about_what_should_be_gone():
    metric = Leftover(Plain())
    cat, neon = concept("cat"), concept("neon")
    applies = {role: metric.applies(Sample("p", 0, role, cat)) for role in ("erased", "kept")}
    assert applies == {"erased": True, "kept": False}
    assert not metric.applies(Sample("p", 0, "erased", neon))
    assert not metric.applies(Sample("p", 0, "erased"))
    scores = metric.scores(torch.full((1, 3, 4, 4), 0.7), [Sample("p", 0, "erased", cat)])
    assert scores.tolist() == pytest.approx([0.7])


def test_suites_ask_it_and_a_judge_without_one_says_so():
    whole = emoji_suite(efface.request("cat"), size="smoke")
    assert "leftover" in whole.image_metrics
    suite = replace(whole, image_metrics=("presence", "leftover"), set_metrics=())
    found = instruments_for(suite, EmojiJudge(), None)
    assert [metric.name for metric in found.image_metrics] == ["presence", "leftover"]
    assert found.names["leftover"].startswith("emoji-leftover-judge@")
    assert found.leftover_card == EmojiJudge("emoji-leftover").card
    plain: Judge = Plain()
    without = instruments_for(suite, plain, None)
    assert [metric.name for metric in without.image_metrics] == ["presence"]
    assert without.names["leftover"] == "not measured: plain@1 has no judge of leftovers"
    assert without.leftover_card is None
