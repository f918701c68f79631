"""Measures what a request did to a detector, thing by thing, on held-out scenes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from efface.concepts import Concept
from efface.content import content_hash
from efface.contracts import JudgeCard, Monitor, Role, Sample, silent
from efface.data.scenes import ScenePictures
from efface.deltas.application import unedited
from efface.deltas.delta import Delta
from efface.deltas.recording import peak_bytes
from efface.errors import BadRequest, MeasurementFailed, MissingInput
from efface.evaluation.captioned import write_captioned
from efface.evaluation.controls import verdict_of
from efface.evaluation.detecting_controls import detecting_controls
from efface.evaluation.detecting_rows import Look, Things, measured, went
from efface.evaluation.detection import DetectedBoxes, TrueBoxes
from efface.evaluation.identity import TensorChange, changes, fingerprints
from efface.evaluation.images import ImageStore, Source
from efface.evaluation.limits import Limits
from efface.evaluation.record import Control, Cost, Evaluation, Measurement, Sighting
from efface.hosts.detector import Detector
from efface.hosts.vision import VisionModel
from efface.hosts.vision_families import vision_host
from efface.metrics.estimates import UNKNOWN
from efface.randomness import environment

__all__ = ["SceneSuite", "evaluate_detector", "scene_suite"]

VERSION = 1
_SHOWN = 8
"""Things of each role whose places are kept for the report."""
_BATCH = 32
_RED = (0.85, 0.1, 0.1)


@dataclass(frozen=True, kw_only=True)
class SceneSuite:
    """Held-out scenes, numbered as the model's head is, and what each class stands for."""

    name: str
    scenes: ScenePictures
    roles: Mapping[int, Role]
    """By class, of all classes that a scene shows."""


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
    held = {number for each in scenes.things for number in each.classes.tolist()}
    if lacking := [number for number in erased if number not in held]:
        raise MissingInput(
            f"the held-out scenes show no {scenes.names[lacking[0]]}, so whether it was "
            "forgotten cannot be measured; give some with --test-data"
        )
    roles: dict[int, Role] = dict.fromkeys(held, "kept")
    of_roles: tuple[tuple[Role, Sequence[int]], ...]
    of_roles = (("missing", missing), ("earlier", earlier), ("erased", erased))
    for role, numbers in of_roles:
        roles.update((number, role) for number in numbers if number in held)
    if "kept" not in roles.values():
        raise MissingInput("the held-out scenes show nothing that is kept; give some of others")
    return SceneSuite(name=name, scenes=scenes, roles=roles)


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
    with unedited(model):
        hashes = fingerprints(model)
        before = _look(host, suite, monitor, 0)
    with delta.apply(model):
        changed = changes(model, hashes, fingerprints(model))
        after = _look(host, suite, monitor, 1)
    base = Source(content_hash(hashes, model.labels, model.preprocessing), None, 0, 0.0)
    seen = _Compared(model, suite, base, replace(base, delta=delta.id), before, after, changed)
    return seen.evaluation(delta, ImageStore(store), limits or Limits())


@dataclass(frozen=True)
class _Compared:
    """What both models find in the same scenes."""

    model: VisionModel
    suite: SceneSuite
    base: Source
    edited: Source
    before: Look | str
    """What the unedited model finds, or why that cannot be counted."""
    after: Look | str
    changed: tuple[TensorChange, ...]

    def evaluation(self, delta: Delta, store: ImageStore, limits: Limits) -> Evaluation:
        """Puts everything on record."""
        things = _things(self.suite)
        samples = _samples(self.suite, things)
        failures = [
            f"the {name} model: {look}"
            for name, look in (("unedited", self.before), ("edited", self.after))
            if isinstance(look, str)
        ]
        names = self.suite.scenes.names
        controls: tuple[Control, ...] = ()
        rows: tuple[Measurement, ...] = ()
        sightings: tuple[Sighting, ...] = ()
        if isinstance(self.before, Look):
            after = self.after if isinstance(self.after, Look) else None
            controls = detecting_controls(self.before, after, things, names=names)
        if isinstance(self.before, Look) and isinstance(self.after, Look):
            rows = tuple(measured(self.before, self.after, things, names))
            sightings = tuple(went(self.before, self.after, things, names))
            self._keep_pictures(store, samples, things)
        verdict, reasons = verdict_of(failures, controls)
        ran = environment()
        return Evaluation(
            suite=f"{self.suite.name}@{VERSION}",
            model_kind="detector",
            judge=_truth(self.suite),
            verdict=verdict,
            reasons=reasons,
            measurements=rows,
            controls=controls,
            costs={
                name: self._cost(look)
                for name, look in (("before", self.before), ("after", self.after))
                if isinstance(look, Look)
            },
            changed=self.changed,
            samples=samples,
            before=self.base,
            after=self.edited,
            provenance=asdict(delta.provenance),
            instruments={"judge": f"boxes of {self.suite.name}"},
            identities={"judge": self.suite.scenes.identity},
            limits=limits,
            sightings=sightings,
            store=store.folder,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={**ran.versions, "commit": ran.commit + ("+changes" if ran.dirty else "")},
        )

    def _keep_pictures(self, store: ImageStore, samples: Sequence[Sample], things: Things) -> None:
        assert isinstance(self.before, Look)
        assert isinstance(self.after, Look)
        said = {
            source: [_called(look, thing, self.suite.scenes.names) for thing in range(len(samples))]
            for source, look in ((self.base, self.before), (self.edited, self.after))
        }

        def read(thing: int) -> Tensor:
            (scene,) = self.suite.scenes.scenes([int(things.scenes[thing])])
            return _outlined(scene.pixels, things.boxes[thing])

        write_captioned(store, read, samples, _SHOWN, said)

    def _cost(self, look: Look) -> Cost:
        return Cost(
            pictures=look.scenes,
            seconds=look.seconds,
            network_evaluations=float(look.scenes),
            peak_bytes=peak_bytes(self.model),
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


def _outlined(pixels: Float[Tensor, "3 h w"], box: Float[Tensor, " 4"]) -> Float[Tensor, "3 h w"]:
    """Draws a thing's box into a picture."""
    height, width = pixels.shape[-2:]
    x, y, wide, high = box.tolist()
    left, right = (round((x + side * wide / 2) * (width - 1)) for side in (-1, 1))
    top, bottom = (round((y + side * high / 2) * (height - 1)) for side in (-1, 1))
    drawn = pixels.clone()
    red = torch.tensor(_RED, dtype=drawn.dtype)[:, None, None]
    drawn[:, top : bottom + 1, [left, right]] = red
    drawn[:, [top, bottom], left : right + 1] = red
    return drawn


def _truth(suite: SceneSuite) -> JudgeCard:
    """The data's own boxes stand where generators have a judge."""
    return JudgeCard(
        name=f"boxes of {suite.name}",
        version=suite.scenes.identity,
        threshold=0.5,
        true_positive_rate=UNKNOWN,
        false_positive_rate=UNKNOWN,
        notes=(
            "A thing counts as found when a box of its class with a score of at least one half "
            "covers it by at least one half of their union."
        ),
    )
