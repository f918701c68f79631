"""What counts as a reproduced number, and which results are drawn."""

import json

import pytest
from benchmarks.check import PARTIAL, RESULTS, same, sampled

from benchmarks import check

RATE = {"value": 0.5, "hits": 4, "count": 8}
MEAN = {"value": 0.2, "hits": None, "count": 8}


@pytest.mark.parametrize(
    ("was", "found", "agrees"),
    [
        (RATE, RATE, True),
        (RATE, RATE | {"hits": 5}, True),
        (RATE, RATE | {"hits": 6}, False),
        (RATE, RATE | {"count": 9}, False),
        (RATE, None, False),
        (MEAN, MEAN | {"value": 0.203}, True),
        (MEAN, MEAN | {"value": 0.21}, False),
    ],
)
def test_one_picture_or_two_per_cent_is_the_same_number(was, found, agrees):
    assert same(was, found) is agrees


def test_results_are_drawn_evenly_over_methods_and_again_alike():
    drawn = sampled(20, seed=0)
    assert drawn == sampled(20, seed=0) != sampled(20, seed=1)
    assert len({path.parent for path in drawn}) == 20
    assert all(path.is_relative_to(RESULTS) for path in drawn)


ROW = {"metric": "presence", "role": "erased", "concept": "cat", "before": RATE, "after": RATE}
OTHER = RATE | {"hits": 7}


@pytest.fixture
def three(tmp_path, monkeypatch):
    """Three committed results of one number each, and the list of those that were run again."""
    paths, again = [tmp_path / f"{number}.json" for number in range(3)], []
    for number, path in enumerate(paths):
        path.write_text(json.dumps({"measurements": [ROW], "of": number}))

    def rerun(path, _benches):
        if path.name == "1.json" and len(again) == 1:
            raise KeyboardInterrupt
        again.append(path.stem)
        return {"measurements": [ROW | {"after": OTHER if path.stem == "2" else RATE}]}

    monkeypatch.setattr(check, "RESULTS", tmp_path)
    monkeypatch.setattr(check, "sampled", lambda count, seed: paths[:count])
    monkeypatch.setattr(check, "rerun", rerun)
    with pytest.raises(KeyboardInterrupt):
        check.run(["3"])
    assert again == ["0"]
    assert not (tmp_path / "check.json").exists()
    again.append("interrupted")
    return tmp_path, again


def test_an_interrupted_check_goes_on_and_says_the_same(three, capsys):
    folder, again = three
    assert check.run(["3"]) == 1
    assert again == ["0", "interrupted", "1", "2"]
    rows = json.loads((folder / "check.json").read_text())["rows"]
    assert [(row["result"], row["numbers"], row["equal"]) for row in rows] == [
        ("0.json", 2, 2),
        ("1.json", 2, 2),
        ("2.json", 2, 1),
    ]
    assert rows[2]["differing"] == [["presence", "erased", "cat", "after"]]
    assert not (folder / PARTIAL).exists()
    assert "2 of    2 equal, 0 differ" in capsys.readouterr().out
    check.run(["1"])  # a whole check is not gone on with
    assert again[-1] == "0"


def test_what_other_code_was_compared_with_is_compared_anew(three, monkeypatch):
    _, again = three
    monkeypatch.setattr(check, "package_digest", lambda: b"other")
    assert check.run(["2"]) == 0
    assert again == ["0", "interrupted", "0", "1"]


def test_a_result_that_was_made_anew_is_compared_anew(three):
    folder, again = three
    (folder / "0.json").write_text(json.dumps({"measurements": [ROW], "of": "another"}))
    assert check.run(["2"]) == 0
    assert again == ["0", "interrupted", "0", "1"]


def test_the_digest_is_of_every_file_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(check.efface, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights.bin").write_bytes(b"1")
    first = check.package_digest()
    assert check.package_digest() == first
    (tmp_path / "sub" / "weights.bin").write_bytes(b"2")
    assert check.package_digest() != first
