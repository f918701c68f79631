"""Both cards: complete, honest, and readable by the hub's own classes."""

import json
import math
import re

import pytest
from huggingface_hub import ModelCard

from efface.concepts import Concept
from efface.contracts import Sample
from efface.printable import printable
from efface.reports.cards import card_values, write_json_card, write_model_card
from efface.reports.facts import run_facts
from efface.reports.writing import write_report

from .conftest import RUN, made, provenance


def test_json_card_holds_what_an_audit_asks_for(tmp_path, evaluation):
    path = write_json_card(tmp_path / "card.json", evaluation, run_facts(evaluation, RUN))
    card = json.loads(path.read_text())
    assert card["identity"]["base"] == "0123456789abcdef"
    assert len(card["identity"]["tensors"][0]["before"]) == 64
    assert card["scope"]["erased"][0]["synonyms"] == ["gun", "handgun"]
    assert card["change"]["parameters"] == 4 * 16384
    assert card["efficacy"][0]["after"]["hits"] == 0
    assert {row["role"] for row in card["efficacy"]} == {"erased", "synonym"}
    assert {row["role"] for row in card["collateral"]} == {"neighbour", "kept"}
    assert not any(one["tested"] for one in card["robustness"].values())
    assert card["judge"]["false_positive_rate"]["value"] is None  # unknown, not zero
    assert card["cost"]["erasure"]["seconds"] == 1.6
    assert card["reproduce"]["command"].startswith("efface erase rece")
    assert any("suppressed" in limit for limit in card["limits"])


def test_model_card_metadata_survives_the_hubs_reader(tmp_path, evaluation):
    path = write_model_card(tmp_path / "card.md", evaluation, run_facts(evaluation, RUN))
    card = ModelCard.load(path)
    assert card.data.library_name == "diffusers"
    assert card.data.pipeline_tag == "text-to-image"
    assert "concept-erasure" in card.data.tags
    results = {(one.dataset_config, one.metric_type): one for one in card.data.eval_results}
    assert results["erased", "presence"].metric_value == 0
    assert "0 of 32" in results["erased", "presence"].metric_name
    assert math.isclose(results["kept", "feature_distance"].metric_value, 0.031)
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_model_card_reads_as_a_page(tmp_path, evaluation):
    path = write_model_card(tmp_path / "card.md", evaluation, run_facts(evaluation, RUN))
    text = path.read_text(encoding="utf-8")
    assert "![The same prompts and seeds before and after](before_after.png)" in text
    assert "| presence | erased | 96.9 % (84.3 to 99.4 %, 31 of 32) | 0 % (0 to 10.7 %" in text
    assert 'efface.load("emoji")' in text
    assert "Nobody has measured" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


def test_only_valid_numbers_reach_the_metadata(tmp_path):
    doubtful = made(tmp_path, verdict="inconclusive", reasons=("a control failed",))
    path = write_model_card(tmp_path / "card.md", doubtful, run_facts(doubtful))
    assert not ModelCard.load(path).data.eval_results
    assert "a control failed" in path.read_text()


def test_a_hub_base_is_named_in_the_metadata(tmp_path):
    told = {**provenance(), "base_model": "someone/some-model"}
    evaluation = made(tmp_path, provenance=told)
    path = write_model_card(tmp_path / "card.md", evaluation, run_facts(evaluation))
    assert ModelCard.load(path).data.base_model == "someone/some-model"


@pytest.mark.parametrize(
    "folder", ["./sd15", "/models/sd15", "models/old/sd15", "sd15", "owned/sd15"]
)
def test_a_folder_is_no_hub_name(tmp_path, monkeypatch, folder):
    (tmp_path / "owned" / "sd15").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    evaluation = made(tmp_path, provenance={**provenance(), "base_model": folder})
    path = write_model_card(tmp_path / "card.md", evaluation, run_facts(evaluation))
    assert ModelCard.load(path).data.base_model is None


def test_hostile_names_stay_text(tmp_path):
    attack = "<script>alert(1)</script>\n```\n---\n# not a heading | x"
    evil = made(
        tmp_path,
        samples=(Sample("x", 0, "erased", Concept(name=attack)),),
        provenance=provenance(attack),
    )
    path = write_model_card(tmp_path / "card.md", evil, run_facts(evil))
    text = path.read_text(encoding="utf-8")
    body = text.split("\n---\n", 1)[1]
    outside_fences = "".join(body.split("```")[::2])
    assert "<script>" not in outside_fences
    assert "\n# not a heading" not in body
    assert body.count("```") == 4
    assert ModelCard.load(path).data.model_name == " ".join(f"{attack} erased".split())


@pytest.mark.parametrize(
    "name",
    [
        "<svg/onload=alert(1)>",
        "https://some.where/x www.some.where me@some.where",
        "[x](http://a) ![y](z)",
        "\x1b[31mred\x1b[0m\x07",
        "\u202egnp\u2028# heading",
        "*b* _i_ ~~s~~ $x$",
        "a: b # c\n---\nlicense: none",
        "!!python/object:os.system",
        "{{ 7*7 }}{% raw %}",
        "- &x *x | > ' \" %",
    ],
)
def test_no_name_gets_out_of_its_place(tmp_path, name):
    told = {**provenance(name), "base_model": name}
    evil = made(tmp_path, samples=(Sample(name, 0, "erased", Concept(name=name)),), provenance=told)
    write_report(tmp_path, evil, {**RUN, **told})
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    outside = "".join(text.split("\n---\n", 1)[1].split("```")[::2])
    outside = re.sub(r"\*\*[A-Za-z ]+\*\*", "", outside)  # what the card itself stresses
    assert not re.search(r"<|://|www\.|@[a-z]|\]\((?!before_after)|(?<!\S)[*_~$]", outside), outside
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag) == ("diffusers", "text-to-image")
    assert data.license is None
    assert printable(" ".join(name.split())) in data.model_name
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<svg/onload" not in page
    for shown in (text, page):
        assert not any(letter in shown for letter in "\x1b\x07\u202e\u2028")


def test_cards_agree_with_each_other(evaluation):
    facts = run_facts(evaluation, RUN)
    assert card_values(evaluation, facts)["summary"].startswith("The judge sees pistol in 96.9 %")
    assert facts.command.endswith("--seed 7 --out runs/again")


def test_facts_without_any_run_are_empty_but_usable(tmp_path):
    alone = made(tmp_path, provenance={}, after=None)
    facts = run_facts(alone)
    assert (facts.method, facts.command, facts.seconds) == ("", "", None)
    assert card_values(alone, facts)["scope"]["erased"] == [{"name": "pistol"}]
