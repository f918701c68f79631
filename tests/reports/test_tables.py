"""The terminal's table, at several widths, with and without numbers."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from efface.concepts import Concept
from efface.contracts import Sample
from efface.reports import console_summary, console_table, write_report

from .conftest import made, measurement


def printed(evaluation, width=120):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(console_table(evaluation))
    return console.file.getvalue()


def test_every_rate_has_hits_interval_and_direction(evaluation):
    text = printed(evaluation)
    assert "VALID" in text
    assert "84.3 to 99.4 %, 31 of 32" in text
    assert "0 to 10.7 %, 0 of 32" in text
    assert "−96.9 points" in text  # noqa: RUF001  # a real minus sign
    assert "0.022 to 0.04, n 32" in text
    assert text.count("↓") == 4  # erased and synonym presence, erased CLIP score, the distance
    assert "65,536 parameters in 4 tensors" in text


@pytest.mark.parametrize("width", [80, 60])
def test_narrow_terminals_lose_no_number(evaluation, width):
    text = "".join(printed(evaluation, width).split())
    for number in ("96.9", "90.6", "6.2", "19.2"):
        assert number in text


def test_invalid_shows_reasons_and_no_number(tmp_path):
    broken = made(tmp_path, verdict="invalid", reasons=("the judge fell",), measurements=())
    text = printed(broken)
    assert "INVALID" in text
    assert "the judge fell" in text
    assert "96.9" not in text


def test_names_with_brackets_are_not_markup(tmp_path):
    odd = Sample("x", 0, "erased", Concept(name="[red]pistol[/nonsense]"))
    assert "[red]pistol[/nonsense]" in printed(made(tmp_path, samples=(odd,)))


def test_single_concepts_need_pictures_enough(tmp_path):
    rows = [
        replace(measurement("kept", 1, 1, count), concept=f"thing {count}") for count in (1, 3, 4)
    ]
    text = printed(made(tmp_path, measurements=(measurement("kept", 31, 31), *rows)))
    assert "thing 4" in text
    assert "thing 3" not in text
    assert "thing 1" not in text


@pytest.mark.parametrize("width", [40, 60, 80])
def test_five_lines_fit_a_screen_and_keep_words_whole(evaluation, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(console_summary(evaluation))
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert len(lines) <= 18
    text = " ".join(" ".join(lines).split())
    for words in ("VALID ERASED", "neighbours: must stay", "84.3", "31 of 32", "kept: must stay"):
        assert words in text


@pytest.mark.parametrize("width", [40, 60])
def test_the_whole_table_keeps_words_whole(evaluation, width):
    words = printed(evaluation, width).split()
    assert {"neighbours", "feature_distance", "before:", "change:"} <= set(words)


@pytest.mark.thorough
def test_what_failed_is_called_so_and_never_suppressed(tmp_path):
    rows = (measurement("erased", 31, 30), measurement("kept", 31, 10))
    found = made(tmp_path, measurements=rows)
    text = printed(found)
    assert "NOT ERASED" in text
    assert "seen in 10 of 32 pictures, in 31 before" in text
    write_report(tmp_path / "run", found)
    card = (tmp_path / "run" / "card.md").read_text("utf-8")
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "suppresses" not in card
    assert "# pistol, not erased" in card
    assert "Outcome of the erasure: **not erased**" in card
    assert 'class="verdict bad"><strong>not erased' in page
    assert 'class="tile bad"' in page


def test_what_erased_prompts_show_now_is_listed_with_the_rest_as_one_row(evaluation):
    from efface.evaluation.record import Sighting
    from efface.reports.whereabouts import whereabouts

    names = ["axe", "", "cat", "dog", "sword", "lamp", "boat"]
    seen = tuple(Sighting("pistol", name, 0, 7 - n, 32) for n, name in enumerate(names))
    seen += (Sighting("pistol", "pistol", 31, 0, 32),)
    found = replace(evaluation, sightings=seen)
    (told,) = whereabouts(found)
    assert told.rows == (
        ("axe", 0, 7),
        ("nothing it knows", 0, 6),
        ("cat", 0, 5),
        ("dog", 0, 4),
        ("pistol", 31, 0),
        ("3 other things", 0, 6),
    )
    text = printed(found)
    assert "what prompts of pistol show first, of 32 pictures" in text
    assert "  pistol: 31 before, 0 after" in text
    assert "what prompts of" not in printed(evaluation)
    assert whereabouts(evaluation) == []
