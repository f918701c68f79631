"""``efface erase --cache``: what is told, and that results are the same."""

import re

import pytest

from efface.deltas.delta import Delta


@pytest.mark.thorough
@pytest.mark.parametrize(
    "pictures", ["--no-smoke", pytest.param("--smoke", marks=pytest.mark.slow)]
)
def test_the_second_erasure_finds_the_keep_set(efface, model, tmp_path, pictures):
    cache = tmp_path / "cache"

    def erased(name, *more):
        words = ("--model", model, "--concept", name, "--keep", "cat", "--keep", "dog", pictures)
        outcome = efface("erase", "uce", *words, "--out", tmp_path / f"run{len(more)}{name}", *more)
        assert outcome.code == 0, outcome
        return outcome.out

    first, second = (erased(name, "--cache", cache) for name in ("pistol", "knife"))
    told = re.search(r"0 of (\d+) kept prompts came from", first)
    assert f"{told[1]} of {told[1]} kept prompts came from {cache}" in second
    assert "came from" not in erased("knife")
    plain, known = Delta.load(tmp_path / "run0knife"), Delta.load(tmp_path / "run2knife")
    assert plain.id == known.id
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    again = erased("cigarette", "--cache", cache)
    assert f"{file} is damaged" in again
    assert f"0 of {told[1]} kept prompts" in again


@pytest.mark.thorough
def test_without_a_keep_set_the_cache_says_so(efface, model, tmp_path):
    erase = ("erase", "uce", "--model", model, "--concept", "cat", "--out", tmp_path / "run")
    outcome = efface(*erase, "--cache", tmp_path / "cache", "--no-evaluate")
    assert outcome.code == 0
    assert "nothing was cached" in outcome.out
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_is_a_file_is_refused(efface, model, tmp_path):
    (tmp_path / "cache").write_text("")
    erase = ("erase", "uce", "--model", model, "--concept", "cat", "--keep", "dog")
    outcome = efface(*erase, "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "cache" in outcome.err
    assert not (tmp_path / "run").exists()
