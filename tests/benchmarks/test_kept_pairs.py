"""Pairs that are added to a keep set are others than the drawn ones, and name nothing erased."""

import json

import efface
from benchmarks import kept_pairs
from efface.bundled.vocabulary import prompt
from efface.evaluation.samples import in_role
from efface.runs.words import understood


def test_pairs_that_are_kept_are_neither_drawn_nor_erased():
    request = understood(efface.request("cat"), "emoji")
    samples = kept_pairs.samples_of(request)
    given = kept_pairs.keeping_pairs(request, samples)
    assert given.keep[:-1] == request.keep
    prompts = given.keep[-1].prompts
    assert len(set(prompts)) == len(prompts) == kept_pairs.PAIRS
    assert not [text for text in prompts if "cat" in text.split()]
    composed = in_role(samples, "composition")
    assert len(composed) == 48
    for sample in composed:
        nouns = sample.concept.name, sample.others[0].name
        for first, second in (nouns, nouns[::-1]):
            assert prompt(kept_pairs.WORDING, first, other=second) not in prompts


def test_committed_rows_are_whole():
    rows = json.loads(kept_pairs.RESULTS.read_text("utf-8"))["rows"]
    made = {(row["method"], row["erased"], row["pairs"]) for row in rows}
    assert len(made) == len(rows) == 2 * len(kept_pairs.METHODS) * len(kept_pairs.ERASED)
    for row in rows:
        assert row["before"].keys() == row["after"].keys()
        assert all(row["after"][role][1] == row["before"][role][1] for role in row["after"])
