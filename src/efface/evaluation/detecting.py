"""Measures what a request did to a detector, thing by thing, on held-out scenes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from efface.concepts import Concept
from efface.contracts import Monitor, Role, Sample, silent
from efface.data.scenes import ScenePictures
from efface.deltas.delta import Delta
from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.captioned import write_captioned
from efface.evaluation.detecting_controls import detecting_controls
from efface.evaluation.detecting_rows import Look, Things, measured, went
from efface.evaluation.detection import DetectedBoxes, TrueBoxes
from efface.evaluation.images import ImageStore
from efface.evaluation.limits import Limits
from efface.evaluation.reading import Findings, Pair, class_roles, reading_cost, truth
from efface.evaluation.record import Evaluation
from efface.hosts.detector import Detector
from efface.hosts.vision import VisionModel
from efface.hosts.vision_families import vision_host
from efface.randomness import as_usual

__all__ = ["SceneSuite", "evaluate_detector", "scene_suite"]

_SHOWN = 8
"""Things of each role whose places are kept for the report."""
_BATCH = 32
_RED = (0.85, 0.1, 0.1)
_COUNTS = (
    "A thing counts as found when a box of its class with a score of at least one half covers it "
    "by at least one half of their union."
)


@dataclass(frozen=True, kw_only=True)
class SceneSuite:
    """Held-out scenes, numbered as the model's head is, and what each class stands for."""

    name: str
    scenes: ScenePictures
    roles: Mapping[int, Role]
    """By class, of all classes that a scene shows."""

    @property
    def count(self) -> int:
        """How many things the scenes show, each of which is a sample."""
        return sum(len(each.classes) for each in self.scenes.things)


def scene_suite(
    name: str,
    scenes: ScenePictures,
    *,
    erased: Sequence[int],
    earlier: Sequence[int] = (),
    missing: Sequence[int] = (),
) -> SceneSuite:
    """Says what the classes of held-out scenes stand for.

    Args:
        name: of the scenes.
        scenes: held out from training, numbered as the head is.
        erased: classes of this request.
        earlier: classes that earlier requests erased.
        missing: kept classes of which training saw no thing.

    Raises:
        MissingInput: no scene shows a class that is erased, or none any other.
    """
    shown = {number for each in scenes.things for number in each.classes.tolist()}
    roles = class_roles(
        scenes.names, shown, "scenes", erased=erased, earlier=earlier, missing=missing
    )
    return SceneSuite(name=name, scenes=scenes, roles=roles)


@as_usual()
def evaluate_detector(
    model: VisionModel,
    delta: Delta,
    suite: SceneSuite,
    *,
    store: Path,
    limits: Limits | None = None,
    monitor: Monitor = silent,
) -> Evaluation:
    """Compares the unedited detector with the edited one on the same held-out scenes.

    A thing is found when a box of its class, of a score of at least one half, covers it by at least
    one half of their union. Average precision, which asks for no least score, stands beside.

    Args:
        model: with earlier requests in force, if the delta stands on some.
        delta: what is measured.
        suite: the scenes.
        store: where pictures for the report are kept.
        limits: from where on a class counts as erased, and others as lost.
        monitor: called with scenes seen, and how many there are.

    Returns:
        An evaluation like those of generators. Answers that are not finite make it "invalid".

    Raises:
        BadRequest: the model is no detector.
        BadDelta: the delta is for another model.
    """
    host = vision_host(model)
    if not isinstance(host, Detector):
        raise BadRequest(f"{host.title} find no things in scenes; see evaluate_recogniser")
    pair = Pair.of(model, delta, lambda turn: _look(host, suite, monitor, turn))
    things = _things(suite)
    images = ImageStore(store)
    return pair.record(
        delta,
        _findings(model, suite, pair, things, images),
        suite=suite.name,
        judge=truth(f"boxes of {suite.name}", suite.scenes.identity, _COUNTS),
        kind="detector",
        limits=limits or Limits(),
        store=images,
    )


def _findings(
    model: VisionModel,
    suite: SceneSuite,
    pair: Pair[Look | str],
    things: Things,
    images: ImageStore,
) -> Findings:
    """Counts what both models find."""
    names, samples = suite.scenes.names, _samples(suite, things)
    looks = {"before": pair.before, "after": pair.after}
    failures = [f"{when} the edit: {look}" for when, look in looks.items() if isinstance(look, str)]
    before, after = (look if isinstance(look, Look) else None for look in looks.values())
    controls = () if before is None else detecting_controls(before, after, things, names=names)
    if before is None or after is None:
        return Findings(samples=samples, failures=failures, controls=controls)
    called = {
        source: [_called(look, thing, names) for thing in range(len(samples))]
        for source, look in ((pair.base, before), (pair.edited, after))
    }
    write_captioned(images, lambda n: _shown(suite, things, n), samples, _SHOWN, called)
    return Findings(
        samples=samples,
        controls=controls,
        measurements=tuple(measured(before, after, things, names)),
        sightings=tuple(went(before, after, things, names)),
        costs={
            "before": reading_cost(model, before.scenes, before.seconds),
            "after": reading_cost(model, after.scenes, after.seconds),
        },
    )


def _things(suite: SceneSuite) -> Things:
    """Lists all things of a suite's scenes, scene by scene."""
    annotated = suite.scenes.things
    counts = torch.tensor([len(each.classes) for each in annotated])
    classes = torch.cat([each.classes for each in annotated])
    return Things(
        scenes=torch.arange(len(annotated)).repeat_interleave(counts),
        boxes=torch.cat([each.boxes for each in annotated]),
        classes=classes,
        roles=tuple(suite.roles[number] for number in classes.tolist()),
    )


def _look(host: Detector, suite: SceneSuite, monitor: Monitor, turn: int) -> Look | str:
    """Runs a detector on all scenes; gives the reason where its answers cannot be counted."""
    began, detected, true = time.perf_counter(), list[DetectedBoxes](), list[TrueBoxes]()
    total = len(suite.scenes)
    try:
        for start in range(0, total, _BATCH):
            part = suite.scenes.scenes(range(start, min(start + _BATCH, total)))
            with torch.no_grad():
                answer = host.detect(host.model.prepared([each.pixels for each in part]))
                boxes = [DetectedBoxes(f.boxes, f.scores, f.classes) for f in host.found(answer)]
            detected += boxes
            true += [TrueBoxes(each.boxes, each.classes) for each in part]
            monitor(turn * total + len(detected) - 1, 2 * total, {})
    except MeasurementFailed as error:
        return str(error)
    return Look.of(detected, true, host.classes, time.perf_counter() - began)


def _samples(suite: SceneSuite, things: Things) -> tuple[Sample, ...]:
    """Names every thing: its class, and its number among all things."""
    names = [suite.scenes.names[number] for number in things.classes.tolist()]
    return tuple(
        Sample(name, number, role, Concept(name=name, kind="class"))
        for number, (name, role) in enumerate(zip(names, things.roles, strict=True))
    )


def _called(look: Look, thing: int, names: Sequence[str]) -> str:
    """Writes what the place of a thing is called, and how surely."""
    number = int(look.called[thing])
    return "nothing" if number < 0 else f"{names[number]} {float(look.scores[thing]):.0%}"


def _shown(suite: SceneSuite, things: Things, number: int) -> Float[Tensor, "3 h w"]:
    """Gives the scene of a thing with the thing's box drawn into it."""
    (scene,) = suite.scenes.scenes([int(things.scenes[number])])
    height, width = scene.pixels.shape[-2:]
    x, y, wide, high = things.boxes[number].tolist()
    left, right = (round((x + side * wide / 2) * (width - 1)) for side in (-1, 1))
    top, bottom = (round((y + side * high / 2) * (height - 1)) for side in (-1, 1))
    drawn = scene.pixels.clone()
    red = torch.tensor(_RED, dtype=drawn.dtype)[:, None, None]
    drawn[:, top : bottom + 1, [left, right]] = red
    drawn[:, [top, bottom], left : right + 1] = red
    return drawn
