"""Verdict and outcome of forgetting in detectors, on answers that are made up."""

import io
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import efface
from efface.bundled.icons import pictures
from efface.data.scenes import Annotated, some_scenes
from efface.errors import MissingInput
from efface.evaluation.detecting import evaluate_detector, scene_suite
from efface.evaluation.detecting_controls import detecting_controls
from efface.evaluation.detecting_rows import Look, Things, measured, went
from efface.evaluation.detection import (
    DetectedBoxes,
    TrueBoxes,
    compare_ap50,
    found_things,
    score_detections,
)
from efface.evaluation.record import Evaluation
from efface.reports import write_report
from efface.reports.tables import console_summary
from tests.pictures import delta_of

NAMES = ("cat", "moon", "tree")
PLACES = torch.tensor([[0.25, 0.25, 0.2, 0.2], [0.75, 0.75, 0.2, 0.2]])
SCENES = 12
ROLES = {0: "erased", 1: "kept", 2: "kept"}
TRUE = [TrueBoxes(PLACES, torch.tensor([0, 1 + scene % 2])) for scene in range(SCENES)]


def things():
    classes = torch.cat([one.classes for one in TRUE])
    return Things(
        scenes=torch.arange(SCENES).repeat_interleave(2),
        boxes=PLACES.repeat(SCENES, 1),
        classes=classes,
        roles=tuple(ROLES[number] for number in classes.tolist()),
    )


def look(say):
    """Makes what a detector finds that says so of each thing: its class, or None."""
    detected = []
    for one in TRUE:
        told = [
            (box, say(number)) for box, number in zip(PLACES, one.classes.tolist(), strict=True)
        ]
        told = [(box, number) for box, number in told if number is not None]
        detected.append(
            DetectedBoxes(
                torch.stack([box for box, _ in told]) if told else torch.zeros(0, 4),
                torch.full((len(told),), 0.9),
                torch.tensor([number for _, number in told], dtype=torch.long),
            )
        )
    return Look.of(detected, TRUE, len(NAMES), 0.0)


KNOWING = look(lambda number: number)
FORGETTING = look(lambda number: number or None)


def failing(before, after):
    return [
        (one.name, one.concept)
        for one in detecting_controls(before, after, things(), names=NAMES)
        if not one.passed
    ]


def test_a_sound_erasure_passes_every_control_and_is_counted_by_thing():
    assert not failing(KNOWING, FORGETTING)
    rows = {(one.metric, one.role): one for one in measured(KNOWING, FORGETTING, things(), NAMES)}
    gone, kept = rows["found", "erased"], rows["found", "kept"]
    assert (gone.before.hits, gone.after.hits, gone.after.count) == (12, 0, 12)
    assert (kept.before.hits, kept.after.hits) == (12, 12)
    assert rows["ap50", "erased"].change.value == pytest.approx(-1)
    assert rows["ap50", "kept"].change.value == 0


@pytest.mark.parametrize(
    ("after", "control"),
    [
        (KNOWING, ("edit", "")),
        (look(lambda number: None), ("model", "")),
        (look(lambda number: 2), ("model", "")),
        (None, ("model", "")),
    ],
    ids=["unedited", "finds nothing", "one class for all", "not finite"],
)
def test_no_idle_edit_and_no_wreck_passes(after, control):
    assert failing(KNOWING, after) == [control]


def test_a_detector_that_never_knew_or_always_sees_the_class_is_inconclusive():
    assert ("positive", "cat") in failing(FORGETTING, KNOWING)
    assert failing(look(lambda number: 0), FORGETTING) == [("negative", "cat")]


def test_places_of_what_was_to_go_are_counted_by_what_they_are_called():
    renamed = look(lambda number: number or 2)
    (first, second) = went(KNOWING, renamed, things(), NAMES)
    assert (first.concept, first.name, first.before, first.after) == ("cat", "tree", 0, 12)
    assert (second.name, second.before, second.after, second.count) == ("cat", 12, 0, 12)
    assert went(KNOWING, FORGETTING, things(), NAMES)[0].name == ""


def test_one_box_finds_one_thing_and_needs_its_class_its_place_and_its_score():
    twins = TrueBoxes(PLACES[:1].repeat(2, 1), torch.tensor([0, 0]))
    box = DetectedBoxes(PLACES[:1], torch.tensor([0.6]), torch.tensor([0]))
    assert found_things(box, twins).sum() == 1
    assert not found_things(replace(box, classes=torch.tensor([1])), twins).any()
    assert not found_things(replace(box, boxes=PLACES[1:]), twins).any()
    assert not found_things(box, twins, least_score=0.7).any()


def test_a_change_of_precision_is_paired_by_picture():
    noisy = [
        DetectedBoxes(
            one.boxes, torch.tensor([0.9, 0.8]), one.classes if n % 3 else 2 - one.classes
        )
        for n, one in enumerate(TRUE)
    ]
    scores = score_detections(noisy, TRUE, classes=3)
    same = compare_ap50(scores, scores, [0, 1], torch.Generator().manual_seed(0))
    assert (same.value, same.low, same.high) == (0, 0, 0)
    alone = scores.mean_ap50([0, 1], torch.Generator().manual_seed(0))
    assert alone.high - alone.low > 0.05
    assert not math.isnan(alone.low)


class Held:
    """Scenes that only say what is in them."""

    names = NAMES
    things = tuple(Annotated(one.boxes, one.classes) for one in TRUE)


def test_held_out_scenes_must_show_what_goes_and_what_stays():
    suite = scene_suite("held", Held(), erased=[0], missing=[2])
    assert suite.roles == {0: "erased", 1: "kept", 2: "missing"}
    with pytest.raises(MissingInput, match="nothing that is kept"):
        scene_suite("held", Held(), erased=[0, 1, 2])
    Held.names = (*NAMES, "sun")
    with pytest.raises(MissingInput, match="show no sun"):
        scene_suite("held", Held(), erased=[3])


@pytest.mark.slow
def test_an_edit_of_the_bundled_detector_is_measured_and_reported(tmp_path):
    model, scenes = efface.load("icons-detector"), pictures("icons-detector", "test")
    number = model.labels.index("key")
    suite = scene_suite("a few", some_scenes(scenes, range(16)), erased=[number])
    key = "model/model.decoder.class_embed.1.bias"
    change = torch.zeros(len(model.labels))
    change[number] = -50.0
    delta = delta_of(model, {key: change}, model.labels[number])
    found = evaluate_detector(model, delta, suite, store=tmp_path / "pictures")
    assert (found.verdict, found.outcome.name) == ("valid", "erased")
    assert found.find("found", "erased").after.hits == 0 < found.find("found", "erased").before.hits
    assert found.find("found", "kept").change.value >= 0
    assert found.find("ap50", "erased").after.value == 0
    assert len(found.samples) == sum(len(each.classes) for each in suite.scenes.things)
    found.save(tmp_path)
    write_report(tmp_path, Evaluation.load(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "Average precision at half overlap" in page
    assert "things in held-out scenes" in page
    console = Console(width=80, file=io.StringIO())
    console.print(console_summary(found))
    assert "found in its place" in console.file.getvalue()
