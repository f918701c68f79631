"""``efface ledger`` from the first request to a run that other verbs read."""

import pytest

from tests.conftest import host


@pytest.fixture
def book(efface, model, tmp_path):
    place = tmp_path / "book"
    add = ("ledger", "add", place, "--model", model, "--date", "2026-01-01")
    assert efface(*add, "--concept", "pistol", "--id", "r1", "--keep", "cat").code == 0
    assert efface(*add, "--concept", "van gogh", "--kind", "style", "--id", "r2").code == 0
    return place


def erased(efface, book, model, out):
    outcome = efface("ledger", "erase", book, "--model", model, "--out", out, "--json")
    assert outcome.code == 0, outcome
    return outcome.json


def test_entries_are_listed_with_their_state(efface, book):
    assert efface("ledger", "revoke", book, "--id", "r2", "--reason", "licensed").code == 0
    shown = efface("ledger", "list", book)
    assert "1 active of 2" in shown.out
    assert "r2  2026-01-01  van gogh  revoked" in shown.out
    rows = efface("ledger", "list", book, "--json").json["entries"]
    assert [row["id"] for row in rows] == ["r1", "r2"]
    assert [row["revoked"] is None for row in rows] == [True, False]


@pytest.mark.thorough
def test_the_run_of_a_ledger_is_read_by_other_verbs(efface, book, model, tmp_path):
    out = tmp_path / "run"
    made = erased(efface, book, model, out)
    assert made["active"] == 2
    verified = efface("verify", out, "--model", model, "--json").json
    assert (verified["agrees"], verified["delta"]) == (True, made["delta"])
    picture = tmp_path / "a.png"
    draw = ("apply", out, "--model", model, "--prompt", "a pistol", "--steps", "1")
    assert efface(*draw, "--out", picture).code == 0
    assert picture.exists()
    again = efface("ledger", "erase", book, "--model", model, "--out", out)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "already holds a run" in again.err


@pytest.mark.slow
def test_revoking_gives_the_delta_of_the_rest(efface, book, model, tmp_path):
    single = tmp_path / "single"
    add = ("ledger", "add", single, "--model", model, "--concept", "pistol", "--keep", "cat")
    assert efface(*add, "--id", "r1", "--date", "2026-01-01").code == 0
    both = erased(efface, book, model, tmp_path / "both")
    assert efface("ledger", "revoke", book, "--id", "r2").code == 0
    left = erased(efface, book, model, tmp_path / "left")
    alone = erased(efface, single, model, tmp_path / "alone")
    assert left["delta"] == alone["delta"] != both["delta"]


@pytest.mark.thorough
def test_merge_and_replay(efface, book, model, other_model, tmp_path):
    other = tmp_path / "other"
    add = ("ledger", "add", other, "--model", model, "--concept", "knife", "--keep", "cat")
    assert efface(*add, "--id", "r3").code == 0
    assert efface("ledger", "merge", book, "--other", other, "--json").json["active"] == 3
    moved = tmp_path / "moved"
    replay = ("ledger", "replay", book, "--model", other_model, "--out", moved, "--json")
    assert efface(*replay).json["active"] == 3
    assert erased(efface, moved, other_model, tmp_path / "there")["active"] == 3
    wrong = efface("ledger", "erase", moved, "--model", model, "--out", tmp_path / "x")
    assert wrong.code == 2
    assert "replay" in wrong.err


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say what to do"),
        (("ad",), "no ledger action 'ad'"),
        (("list", "nowhere"), "there is no ledger at nowhere"),
        (("revoke", "{book}", "--id", "r9"), "no entry 'r9'"),
        (("erase", "{book}", "--out", "{out}"), "--model FOLDER"),
        (("add", "{book}", "--concept", "cat", "--keep", "dog", "--model", "{model}"), "keep set"),
    ],
)
def test_bad_input_is_one_line(efface, book, model, tmp_path, arguments, said):
    places = {"book": book, "out": tmp_path / "run", "model": model}
    outcome = efface("ledger", *(word.format(**places) for word in arguments))
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome
    assert said in outcome.err


@pytest.mark.parametrize("family", ["sdxl", "flux"])
@pytest.mark.slow
def test_a_ledger_of_a_larger_family_from_add_to_verify(efface, tmp_path, family):
    place, book, twin = (tmp_path / name for name in ("model", "book", "twin"))
    host(f"tiny_{family}").save_pretrained(place)
    add = ("--model", place, "--date", "2026-01-01", "--concept")
    assert efface("ledger", "add", book, *add, "pistol", "--id", "r1", "--keep", "cat").code == 0
    assert efface("ledger", "add", book, *add, "knife", "--id", "r2").code == 0
    assert efface("ledger", "add", twin, *add, "church", "--id", "r3", "--keep", "cat").code == 0
    assert efface("ledger", "merge", book, "--other", twin, "--json").json["active"] == 3
    assert efface("ledger", "revoke", book, "--id", "r2").code == 0
    assert "2 active of 3" in efface("ledger", "list", book).out
    left = erased(efface, book, place, tmp_path / "left")
    assert efface("verify", tmp_path / "left", "--model", place, "--json").json["agrees"]
    assert efface("ledger", "add", twin, *add, "pistol", "--id", "r1").code == 0
    assert erased(efface, twin, place, tmp_path / "other")["delta"] == left["delta"]
    moved = tmp_path / "moved"
    replay = ("ledger", "replay", book, "--model", place, "--out", moved, "--json")
    assert efface(*replay).json["active"] == 2
    assert erased(efface, moved, place, tmp_path / "again")["delta"] == left["delta"]
