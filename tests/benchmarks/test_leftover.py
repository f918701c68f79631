"""Labels of pictures of erased prompts, what the judges make of them, and the cards agree."""

import json
from dataclasses import asdict

import pytest
from benchmarks.leftover_pictures import LABELS, PARTS, pictures

from benchmarks import leftover
from efface.bundled.judge import EmojiJudge

RECORD = json.loads(leftover.RESULTS.read_text())
ROWS = RECORD["pictures"]


def test_every_label_belongs_to_a_picture_that_the_script_draws():
    labels = json.loads(LABELS.read_text())["seen"]
    assert set(labels) <= {one.key for one in pictures()}
    assert set(labels.values()) == {"yes", "no", "unsure"}
    assert {row["key"]: row["seen"] for row in ROWS} == labels


def test_parts_share_no_noun():
    nouns = [noun for part in PARTS.values() for noun in part]
    assert len(nouns) == len(set(nouns))
    assert all(row["key"].split("/")[0] in PARTS[row["part"]] for row in ROWS)


def test_there_are_enough_pictures_of_both_kinds_in_neon_and_blueprint():
    for style in ("neon", "blueprint"):
        for seen in ("yes", "no"):
            assert sum((row["style"], row["seen"]) == (style, seen) for row in ROWS) >= 40


def test_the_threshold_is_chosen_on_the_tuning_part_alone():
    tuning = [row for row in ROWS if row["part"] == "tuning"]
    assert leftover.chosen_threshold(tuning) == EmojiJudge("emoji-leftover").card.threshold


@pytest.mark.parametrize(
    ("name", "answers"),
    [("emoji", "emoji"), ("emoji-second", "emoji-second"), ("emoji-leftover", "emoji")],
)
def test_cards_hold_the_rates_of_the_rows(name, answers):
    card = EmojiJudge(name).card
    rows = [row for row in ROWS if name != "emoji-leftover" or row["part"] != "tuning"]
    rates = leftover.rates(rows, answers, card.threshold)
    missed = {style: asdict(rate) for style, rate in card.leftovers_missed.items()}
    assert missed == leftover.missed({"rates": rates})


@pytest.mark.parametrize(
    ("answers", "threshold"), [([0.5, 0.2, 0.123], 0.12), ([0.0456] * 50, 0.045)]
)
def test_a_threshold_is_rounded_down_to_two_digits(answers, threshold):
    rows = [
        {"style": style, "seen": "yes", "emoji": answer}
        for style in ("neon", "blueprint")
        for answer in answers
    ]
    assert leftover.chosen_threshold(rows) == pytest.approx(threshold)
