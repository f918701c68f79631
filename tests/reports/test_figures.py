"""Pictures of pictures: what is chosen, and that it is really there."""

import numpy as np
import pytest
from PIL import Image

from efface.concepts import Concept
from efface.contracts import Sample
from efface.evaluation.images import ImageStore
from efface.reports import write_report
from efface.reports.charts import blocks, curves
from efface.reports.figures import before_after, chosen
from efface.reports.wording import chance, change, number, size

from .conftest import RUN, made, measurement


def colours(path):
    with Image.open(path) as image:
        return {tuple(pixel) for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3)}


@pytest.mark.thorough
def test_a_report_is_one_folder(tmp_path, evaluation):
    written = write_report(tmp_path / "run", evaluation, RUN)
    names = {path.name for path in written}
    pictures = {"before_after.png", "thumbnail.jpg", "intervals.png"}
    assert names == {"report.html", "card.json", "card.md", *pictures}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    seed_colour = colours(next((tmp_path / "pictures").rglob("*.png"))) - {(255, 255, 255)}
    shown = colours(tmp_path / "run" / "before_after.png")
    first = evaluation.picture(chosen(evaluation, "erased")[0], edited=False)
    assert (colours(first) - {(255, 255, 255)}) & shown
    assert seed_colour


@pytest.mark.slow
def test_an_invalid_evaluation_has_a_report_without_a_plot(tmp_path):
    broken = made(tmp_path, verdict="invalid", reasons=("x",), measurements=())
    names = {path.name for path in write_report(tmp_path / "run", broken)}
    assert "intervals.png" not in names
    assert "report.html" in names


def test_chosen_pictures_are_spread_over_seeds_and_concepts(evaluation, tmp_path):
    assert [one.seed for one in chosen(evaluation, "erased", 4)] == [0, 2, 4, 6]
    several = [
        Sample(f"a {name}", seed, "kept", Concept(name=name))
        for name in ("cat", "dog", "boat")
        for seed in (0, 1)
    ]
    mixed = made(tmp_path / "b", samples=tuple(several))
    for sample in several:
        for edited in (False, True):
            source = mixed.after if edited else mixed.before
            path = mixed.store / source.key / f"{sample.id}.png"
            Image.new("RGB", (8, 8)).save(path)
    assert [one.concept.name for one in chosen(mixed, "kept", 4)] == ["cat", "dog", "boat", "cat"]


@pytest.mark.thorough
def test_a_prompt_with_dollars_is_no_formula(tmp_path):
    odd = Sample(r"a $\frac{ sign $ on a very long board that nobody reads", 0, "erased")
    evaluation = made(tmp_path, samples=(odd,))
    for source in (evaluation.before, evaluation.after):
        Image.new("RGB", (8, 8), "lime").save(ImageStore(evaluation.store).path(source, odd))
    assert (0, 255, 0) in colours(before_after(evaluation, tmp_path / "odd.png"))


def test_bars_are_percent_of_the_track(evaluation):
    erased = blocks(evaluation)[0].lines[0]
    assert erased.before_bar.middle == 96.88
    assert erased.after_bar.start == 0
    assert erased.after_bar.width == 10.72
    distance = blocks(evaluation)[-1]
    assert not distance.paired
    assert distance.lines[0].after == "0.031"


def test_curves_need_two_finite_points():
    assert curves({"one": [1.0], "none": [float("nan")] * 3}) == ()
    (line,) = curves({"loss": [2.0, 1.0, float("nan"), 0.0]})
    assert line.path == "M4.0,4.0 L150.0,40.0 L296.0,76.0"
    assert (line.first, line.last) == ("2", "0")
    (line,) = curves({"trce_vision: kept_noise": [2.0, 1.0]})
    assert line.title == "trce_vision: kept noise"


def test_numbers_read_like_numbers():
    assert number(0.125, "rate") == "12.5 %"
    assert number(1.0, "rate") == "100 %"
    assert number(float("nan"), "rate") == "unknown"
    assert number(0.03125, "squared MMD") == "0.0312"
    assert number(-5.1e-15, "squared MMD") == "0"
    assert change(measurement("kept", 31, 31)) == "none"
    assert chance(3e-7) == "p < 0.0001"
    assert size(1_234_000) == "1 MB"
    assert size(2_500_000_000) == "2.5 GB"
