"""Order-free bookkeeping: what is active decides the delta, and nothing else does."""

import itertools
import json

import pytest
import torch

from efface.concepts import Concept, request
from efface.errors import BadRequest
from efface.ledger import Ledger
from efface.methods.uce import Uce
from efface.registry import build
from efface.runs.erasing import erase
from tests.conftest import host

KEEP = (Concept(name="cat"), Concept(name="dog"))
METHOD = Uce(keep_scale=0.5)
WORDS = {"a": "pistol", "b": "van gogh", "c": "knife"}


def new(folder, pipe, *ids, keep=KEEP, method=METHOD):
    ledger = Ledger.create(folder, pipe, method=method, keep=keep)
    for name in ids:
        ledger = ledger.add(pipe, request(WORDS[name]), id=name, date="2026-01-01")
    return ledger


def same_bits(first, second):
    mine, theirs = first.delta.tensors(), second.delta.tensors()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.thorough
def test_every_order_of_adding_gives_the_same_bits(tiny_sd1, tmp_path):
    orders = list(itertools.permutations("abc"))
    made = [new(tmp_path / "".join(ids), tiny_sd1, *ids).erase(tiny_sd1) for ids in orders]
    assert all(same_bits(made[0], other) for other in made[1:])
    assert len({result.delta.id for result in made}) == 1


@pytest.mark.thorough
def test_adding_three_and_revoking_one_equals_adding_two_bit_for_bit(tiny_sd1, tmp_path):
    three = new(tmp_path / "abc", tiny_sd1, "a", "b", "c").revoke("b", reason="licensed")
    two = new(tmp_path / "ac", tiny_sd1, "a", "c")
    assert same_bits(three.erase(tiny_sd1), two.erase(tiny_sd1))
    everything = new(tmp_path / "all", tiny_sd1, "a", "b", "c")
    assert not same_bits(three.erase(tiny_sd1), everything.erase(tiny_sd1))


@pytest.mark.thorough
def test_a_ledger_equals_one_request_for_everything(tiny_double, tmp_path):
    ledger = new(tmp_path / "book", tiny_double, "a", "b")
    whole = request([WORDS["a"], WORDS["b"]], keep=list(KEEP))
    once = erase(tiny_double, whole, method=METHOD)
    name = next(iter(once.delta.patches))
    mine = ledger.erase(tiny_double).delta.patches[name]
    theirs = once.delta.patches[name]
    assert torch.allclose(mine.left @ mine.right, theirs.left @ theirs.right, atol=1e-6, rtol=0)


@pytest.mark.thorough
def test_what_was_saved_is_read_back_and_solves_to_the_same_bits(tiny_sd1, tmp_path):
    ledger = new(tmp_path / "book", tiny_sd1, "a", "b").revoke("a", reason="withdrawn")
    again = Ledger.open(tmp_path / "book")
    assert again == ledger
    assert again.find("a").revoked.reason == "withdrawn"
    assert [entry.id for entry in again.active] == ["b"]
    assert same_bits(ledger.erase(tiny_sd1), again.erase(tiny_sd1))


@pytest.mark.thorough
def test_merging_equals_adding_and_a_revocation_on_either_side_counts(tiny_sd1, tmp_path):
    left = new(tmp_path / "left", tiny_sd1, "a", "b")
    right = new(tmp_path / "right", tiny_sd1, "b", "c").revoke("b", reason="licensed")
    merged = left.merge(right)
    assert [entry.id for entry in merged.active] == ["a", "c"]
    two = new(tmp_path / "two", tiny_sd1, "a", "c")
    assert same_bits(merged.erase(tiny_sd1), two.erase(tiny_sd1))


def test_merging_refuses_what_does_not_fit_together(tiny_sd1, tmp_path):
    left = new(tmp_path / "left", tiny_sd1, "a")
    other_words = Ledger.create(tmp_path / "words", tiny_sd1, method=METHOD, keep=KEEP)
    other_words = other_words.add(tiny_sd1, request("knife"), id="a", date="2026-01-01")
    with pytest.raises(BadRequest, match="both ledgers have an entry 'a'"):
        left.merge(other_words)
    with pytest.raises(BadRequest, match="other settings"):
        left.merge(new(tmp_path / "settings", tiny_sd1, "b", method=Uce(ridge=2.0)))
    other_base = host("tiny_sd1", seed=1)
    with pytest.raises(BadRequest, match="another text encoder"):
        left.merge(new(tmp_path / "base", other_base, "b"))


@pytest.mark.thorough
def test_replaying_on_another_base_equals_a_ledger_made_there(tiny_sd1, tmp_path):
    other = host("tiny_sd1", seed=1)
    ledger = new(tmp_path / "book", tiny_sd1, "a", "b", "c").revoke("c", reason="licensed")
    with pytest.raises(BadRequest, match="replay it on this base"):
        ledger.erase(other)
    moved = ledger.replay(tmp_path / "moved", other)
    there = new(tmp_path / "there", other, "a", "b")
    assert same_bits(moved.erase(other), there.erase(other))
    assert moved.find("c").revoked.reason == "licensed"


@pytest.mark.thorough
def test_the_keep_set_is_encoded_once_and_leaves_out_what_is_erased(tiny_sd1, tmp_path):
    ledger = new(tmp_path / "book", tiny_sd1, "a", keep=(*KEEP, Concept(name="pistol")))
    first = ledger.erase(tiny_sd1)
    stored = sorted((tmp_path / "book" / "keep").iterdir())
    assert len(stored) == 1
    changed = stored[0].stat().st_mtime_ns
    assert same_bits(first, ledger.erase(tiny_sd1))
    assert stored[0].stat().st_mtime_ns == changed
    assert same_bits(first, new(tmp_path / "plain", tiny_sd1, "a").erase(tiny_sd1))


@pytest.mark.thorough
def test_a_weight_counts_as_repeating_the_entry(tiny_double, tmp_path):
    book = Ledger.create(tmp_path / "book", tiny_double, method=METHOD, keep=KEEP)
    heavy = book.add(tiny_double, request("pistol"), id="a", weight=3.0).erase(tiny_double)
    scaled = erase(
        tiny_double, request("pistol", keep=list(KEEP)), method=Uce(keep_scale=0.5, erase_scale=3.0)
    )
    name = next(iter(scaled.delta.patches))
    mine, theirs = heavy.delta.patches[name], scaled.delta.patches[name]
    assert torch.allclose(mine.left @ mine.right, theirs.left @ theirs.right, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("entries", 0, "date"), "1999-01-01", "entry 'a'"),
        (("entries", 1, "request", "erasures", 0, "concept", "name"), "cat", "entry 'b'"),
        (("settings", "ridge"), 9.0, "settings"),
        (("base_model",), "another", "settings"),
    ],
)
def test_a_ledger_edited_by_hand_is_refused_by_name(tiny_sd1, tmp_path, path, value, named):
    new(tmp_path / "book", tiny_sd1, "a", "b")
    file = tmp_path / "book" / "ledger.json"
    values = json.loads(file.read_text())
    place = values
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    file.write_text(json.dumps(values))
    with pytest.raises(BadRequest, match=f"(?s){named}.*changed by hand|changed by hand.*{named}"):
        Ledger.open(tmp_path / "book")


def test_an_entry_taken_out_by_hand_is_noticed(tiny_sd1, tmp_path):
    new(tmp_path / "book", tiny_sd1, "a", "b")
    file = tmp_path / "book" / "ledger.json"
    values = json.loads(file.read_text())
    del values["entries"][0]
    file.write_text(json.dumps(values))
    with pytest.raises(BadRequest, match="list of entries"):
        Ledger.open(tmp_path / "book")


def test_exchanged_or_missing_rows_are_refused(tiny_sd1, tmp_path):
    ledger = new(tmp_path / "book", tiny_sd1, "a", "b")
    rows = tmp_path / "book" / "rows"
    (rows / "a.safetensors").write_bytes((rows / "b.safetensors").read_bytes())
    with pytest.raises(BadRequest, match=r"a\.safetensors is not the file"):
        ledger.erase(tiny_sd1)
    (rows / "a.safetensors").unlink()
    with pytest.raises(BadRequest, match=r"a\.safetensors is missing"):
        ledger.erase(tiny_sd1)


def test_ids_and_concepts_are_taken_once(tiny_sd1, tmp_path):
    ledger = new(tmp_path / "book", tiny_sd1, "a")
    with pytest.raises(BadRequest, match="has an entry 'a' already"):
        ledger.add(tiny_sd1, request("knife"), id="a")
    with pytest.raises(BadRequest, match="'a' and 'b' both erase 'pistol'"):
        ledger.add(tiny_sd1, request("pistol", anchor="lamp"), id="b")
    with pytest.raises(BadRequest, match="'yesterday' is not a day"):
        ledger.add(tiny_sd1, request("knife"), id="b", date="yesterday")
    with pytest.raises(BadRequest, match="cannot be the id"):
        ledger.add(tiny_sd1, request("knife"), id="../b")
    with pytest.raises(BadRequest, match="no entry 'z'; it has: a"):
        ledger.revoke("z")
    gone = ledger.revoke("a")
    with pytest.raises(BadRequest, match="revoked on"):
        gone.revoke("a")
    with pytest.raises(BadRequest, match="no active entry"):
        gone.erase(tiny_sd1)
    assert gone.add(tiny_sd1, request("pistol"), id="b").find("b").active


def test_ids_that_share_a_file_where_capitals_are_not_told_apart_are_refused(tiny_sd1, tmp_path):
    ledger = new(tmp_path / "book", tiny_sd1, "a")
    with pytest.raises(BadRequest, match="has an entry 'a' already"):
        ledger.add(tiny_sd1, request("knife"), id="A")
    other = Ledger.create(tmp_path / "other", tiny_sd1, method=METHOD, keep=KEEP)
    with pytest.raises(BadRequest, match="has an entry 'a' already"):
        ledger.merge(other.add(tiny_sd1, request("knife"), id="A"))
    with pytest.raises(BadRequest, match="too long to name a file"):
        ledger.add(tiny_sd1, request("knife"), id="x" * 300)


def test_newer_missing_and_broken_ledgers(tiny_sd1, tmp_path):
    with pytest.raises(BadRequest, match="there is no ledger"):
        Ledger.open(tmp_path / "nothing")
    new(tmp_path / "book", tiny_sd1, "a")
    with pytest.raises(BadRequest, match="holds a ledger already"):
        new(tmp_path / "book", tiny_sd1)
    file = tmp_path / "book" / "ledger.json"
    whole = file.read_text()
    file.write_text(whole.replace('"version": 1', '"version": 2'))
    with pytest.raises(BadRequest, match="version 2"):
        Ledger.open(tmp_path / "book")
    file.write_text(whole[: len(whole) // 2])
    with pytest.raises(BadRequest, match="damaged"):
        Ledger.open(tmp_path / "book")


def test_a_method_that_looks_at_all_requests_together_is_refused(tmp_path):
    method = build("methods", "kernel_map")
    with pytest.raises(BadRequest, match="rows sampled among all of them"):
        Ledger.create(tmp_path, host("tiny_sd1"), method=method)


@pytest.mark.parametrize("more", [{"reweightings": 2}, {"unanchored": "nearest"}])
def test_settings_that_look_at_all_entries_together_are_refused(tiny_sd1, tmp_path, more):
    with pytest.raises(BadRequest, match="a ledger adds up entries, each for itself"):
        Ledger.create(tmp_path / "book", tiny_sd1, method=Uce(**more), keep=KEEP)
    assert not (tmp_path / "book").exists()


def test_two_objects_of_one_folder_lose_nothing(tiny_sd1, tmp_path):
    """Each change starts from what the folder holds, not from what its object once read."""
    one = new(tmp_path / "book", tiny_sd1, "a")
    other = Ledger.open(tmp_path / "book")
    one.add(tiny_sd1, request("knife"), id="c")
    other.add(tiny_sd1, request("church"), id="d")
    one.revoke("a")
    other.add(tiny_sd1, request("boat"), id="e")
    held = Ledger.open(tmp_path / "book")
    assert [entry.id for entry in held.entries] == ["a", "c", "d", "e"]
    assert [entry.id for entry in held.active] == ["c", "d", "e"]
    with pytest.raises(BadRequest, match="has an entry 'c' already"):
        other.add(tiny_sd1, request("cup"), id="c")


@pytest.mark.thorough
def test_a_second_request_for_a_concept_changes_nothing_until_the_first_is_revoked(
    tiny_sd1, tmp_path
):
    once = new(tmp_path / "once", tiny_sd1, "a", "c").erase(tiny_sd1)
    book = new(tmp_path / "book", tiny_sd1, "a", "c")
    book = book.add(tiny_sd1, request(WORDS["a"]), id="z")
    assert len(book.active) == 3
    assert same_bits(book.erase(tiny_sd1), once)
    assert same_bits(
        book.revoke("a").erase(tiny_sd1),
        new(tmp_path / "cz", tiny_sd1, "c")
        .add(tiny_sd1, request(WORDS["a"]), id="z")
        .erase(tiny_sd1),
    )
    heavier = book.add(tiny_sd1, request([WORDS["a"], WORDS["c"]]), id="y", weight=2.0)
    assert [entry.id for entry in heavier.solved] == ["y"]


@pytest.mark.thorough
def test_a_run_of_a_ledger_is_repeated_from_its_recipe(tiny_sd1, tmp_path):
    from efface.ledger.solve import repeat
    from efface.runs.recipe_records import recipe_from

    book = new(tmp_path / "book", tiny_sd1, "a")
    book = book.add(tiny_sd1, request([WORDS["a"], "church"]), id="b", weight=0.5)
    made = book.erase(tiny_sd1)
    recipe = recipe_from({"recipe": made.recipe})
    assert [(entry.id, entry.weight) for entry in recipe.entries] == [("a", 1.0), ("b", 0.5)]
    assert [entry.erasures for entry in recipe.entries] == [(0,), (0, 1)]
    assert same_bits(repeat(recipe, tiny_sd1), made)


@pytest.mark.parametrize("date", ["yesterday", "2026-13-01", "1.1.2026"])
def test_a_date_is_a_day(tiny_sd1, tmp_path, date):
    book = new(tmp_path / "book", tiny_sd1, "a")
    with pytest.raises(BadRequest, match="is not a day; write year, month and day"):
        book.add(tiny_sd1, request("knife"), date=date)
    with pytest.raises(BadRequest, match="is not a day"):
        book.revoke("a", date=date)
    assert Ledger.open(tmp_path / "book").find("a").active
