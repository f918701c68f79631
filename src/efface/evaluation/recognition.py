"""Measures what a request did to a classifier or recogniser, on held-out pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.concepts import Concept
from efface.contracts import ModelKind, Monitor, Role, Sample, silent
from efface.data.pictures import LabelledPictures
from efface.deltas.application import unedited
from efface.deltas.delta import Delta
from efface.errors import BadRequest
from efface.evaluation.answers import Answers
from efface.evaluation.captioned import write_captioned
from efface.evaluation.images import ImageStore
from efface.evaluation.limits import Limits
from efface.evaluation.membership_rows import TrainedOn, membership_rows, trained_on
from efface.evaluation.reading import Findings, Pair, class_roles, reading_cost, truth
from efface.evaluation.recognition_controls import forgetting_controls
from efface.evaluation.recognition_rows import Seen, measured, went
from efface.evaluation.record import Evaluation, Measurement
from efface.hosts.classifier import Classifier
from efface.hosts.recogniser import Recogniser
from efface.hosts.vision import VisionModel
from efface.hosts.vision_families import vision_host
from efface.randomness import as_usual

__all__ = ["PictureSuite", "evaluate_recogniser", "picture_suite"]

_SHOWN = 8
"""Pictures of each role that are kept for the report."""
_BATCH = 128
_COUNTS = "A picture counts as recognised when the model gives it the name it has in the data."


@dataclass(frozen=True, kw_only=True)
class PictureSuite:
    """Held-out pictures, numbered as the model's head is, and what each class stands for."""

    name: str
    pictures: LabelledPictures
    roles: Mapping[int, Role]
    """By class; classes without a role are left out."""
    strangers: LabelledPictures | None = None
    """Pictures of classes that the model never knew."""
    trained: TrainedOn[LabelledPictures] | None = None
    """Pictures that the model was trained on; without any, membership is not attacked."""

    @property
    def places(self) -> Int[Tensor, " n"]:
        """Which pictures have a role."""
        known = torch.tensor(sorted(self.roles))
        return torch.isin(self.pictures.labels, known).nonzero().flatten()


def picture_suite(
    name: str,
    pictures: LabelledPictures,
    *,
    erased: Sequence[int],
    earlier: Sequence[int] = (),
    missing: Sequence[int] = (),
    strangers: LabelledPictures | None = None,
    trained: LabelledPictures | None = None,
) -> PictureSuite:
    """Says what the classes of held-out pictures stand for.

    Args:
        name: of the pictures.
        pictures: held out from training, numbered as the head is.
        erased: classes of this request.
        earlier: classes that earlier requests erased.
        missing: kept classes of which training saw no picture.
        strangers: pictures of classes that the model never knew; without any, kept pictures stand
            in for them.
        trained: what the model was trained on, numbered as the head is, if that is known.

    Raises:
        MissingInput: there is no picture of a class that is erased, or none of any other.
    """
    shown = {int(number) for number in pictures.labels.unique()}
    roles = class_roles(
        pictures.names, shown, "pictures", erased=erased, earlier=earlier, missing=missing
    )
    known = None if trained is None else trained_on(trained, tuple(erased), tuple(earlier))
    return PictureSuite(
        name=name, pictures=pictures, roles=roles, strangers=strangers, trained=known
    )


@as_usual()
def evaluate_recogniser(
    model: VisionModel,
    delta: Delta,
    suite: PictureSuite,
    *,
    store: Path,
    limits: Limits | None = None,
    monitor: Monitor = silent,
) -> Evaluation:
    """Compares the unedited model with the edited one on the same held-out pictures.

    Args:
        model: with earlier requests in force, if the delta stands on some.
        delta: what is measured.
        suite: the pictures.
        store: where pictures for the report are kept.
        limits: from where on a class counts as erased, and others as lost.
        monitor: called with pictures seen, and how many there are.

    Returns:
        An evaluation like those of generators: its verdict says whether the numbers can be read,
        its outcome what they say. Answers that are not finite make it "invalid".

    Raises:
        BadRequest: the model does not recognise whole pictures.
        BadDelta: the delta is for another model.
    """
    host = vision_host(model)
    if not isinstance(host, Classifier):
        raise BadRequest(f"{host.title} do not give pictures one name each")
    with unedited(model):
        strangers = None if suite.strangers is None else _logits(host, suite.strangers)
    pair = Pair.of(model, delta, lambda turn: _seen(host, suite, monitor, turn))
    images = ImageStore(store)
    return pair.record(
        delta,
        _findings(model, suite, pair, strangers, images),
        suite=suite.name,
        judge=truth(f"names of {suite.name}", suite.pictures.identity, _COUNTS),
        kind=_kind(host),
        limits=limits or Limits(),
        store=images,
    )


def _findings(
    model: VisionModel,
    suite: PictureSuite,
    pair: Pair[Seen],
    strangers: Float[Tensor, "n classes"] | None,
    images: ImageStore,
) -> Findings:
    """Counts what both models say.

    Args:
        model: whose answers they are.
        suite: the pictures.
        pair: both models' answers.
        strangers: the unedited model's logits for pictures of classes that it never knew.
        images: where pictures for the report are kept.
    """
    before, after, labels = pair.before, pair.after, suite.pictures.labels[suite.places]
    roles, samples = _roles(suite, labels), _samples(suite, labels)
    failures = [
        f"the {name} model gives answers that are not finite"
        for name, seen in (("unedited", before), ("edited", after))
        if not seen.finite
    ]
    controls = (
        forgetting_controls(
            Answers(before.logits, labels),
            after.logits,
            roles,
            names=model.labels,
            strangers=strangers,
        )
        if before.finite
        else ()
    )
    said = {pair.base: _answers(model, before), pair.edited: _answers(model, after)}
    pictures, places = suite.pictures, suite.places.tolist()
    write_captioned(images, lambda n: pictures.read([places[n]])[0], samples, _SHOWN, said)
    seen = (before, after, labels, roles)
    return Findings(
        samples=samples,
        failures=failures,
        controls=controls,
        measurements=() if failures else tuple(_measured(suite, *seen)),
        sightings=() if failures else tuple(went(*seen, model.labels)),
        costs={
            "before": reading_cost(model, len(before.logits), before.seconds),
            "after": reading_cost(model, len(after.logits), after.seconds),
        },
    )


def _measured(
    suite: PictureSuite, before: Seen, after: Seen, labels: Int[Tensor, " n"], roles: list[Role]
) -> Iterator[Measurement]:
    yield from measured(before, after, labels, roles, suite.pictures.names)
    if suite.trained is None or before.trained is None or after.trained is None:
        return
    taught = TrainedOn(suite.trained.forgotten.labels, suite.trained.retained.labels)
    among = {role: torch.tensor([one == role for one in roles]) for role in ("erased", "kept")}
    if not among["kept"].any():
        return
    outside = [
        TrainedOn(
            *(Answers(seen.logits[which], labels[which]) for which in among.values()),
        )
        for seen in (before, after)
    ]
    yield from membership_rows(taught, (before.trained, after.trained), (outside[0], outside[1]))


def _kind(host: Classifier) -> ModelKind:
    return "recogniser" if host.key == "recogniser" else "classifier"


def _seen(host: Classifier, suite: PictureSuite, monitor: Monitor, turn: int) -> Seen:
    """Asks a model about all pictures."""
    began, parts, margin, features = time.perf_counter(), [], list[Tensor](), []
    done, total = turn * len(suite.places), 2 * len(suite.places)
    with torch.no_grad():
        for which in suite.places.split(_BATCH):
            pixels = host.model.prepared(suite.pictures.read(which.tolist()))
            logits, read = host.both(pixels)
            features.append(read.float().cpu())
            if isinstance(host, Recogniser):
                own = suite.pictures.labels[which].to(logits.device)
                margin.append((host.with_margin(logits, own).argmax(1) == own).cpu())
            parts.append(logits.float().cpu())
            done += len(which)
            monitor(done - 1, total, {})
    seconds = time.perf_counter() - began
    held = torch.cat(margin) if margin else None
    trained = None
    if suite.trained is not None:
        asked = suite.trained
        trained = TrainedOn(_logits(host, asked.forgotten), _logits(host, asked.retained))
    return Seen(
        logits=torch.cat(parts),
        features=torch.cat(features),
        within_margin=held,
        seconds=seconds,
        trained=trained,
    )


def _logits(host: Classifier, pictures: LabelledPictures) -> Float[Tensor, "n classes"]:
    with torch.no_grad():
        parts = [
            host.logits(host.model.prepared(pictures.read(which.tolist()))).float().cpu()
            for which in torch.arange(len(pictures)).split(_BATCH)
        ]
    return torch.cat(parts)


def _roles(suite: PictureSuite, labels: Int[Tensor, " n"]) -> list[Role]:
    return [suite.roles[label] for label in labels.tolist()]


def _samples(suite: PictureSuite, labels: Int[Tensor, " n"]) -> tuple[Sample, ...]:
    """Names every picture: its class, and its place in the set."""
    rows = zip(suite.places.tolist(), labels.tolist(), _roles(suite, labels), strict=True)
    return tuple(
        Sample(
            suite.pictures.names[label],
            place,
            role,
            Concept(name=suite.pictures.names[label], kind="class"),
        )
        for place, label, role in rows
    )


def _answers(model: VisionModel, seen: Seen) -> list[str]:
    """Writes what each picture is called, and how surely."""
    chances, numbers = seen.logits.softmax(1).max(1)
    pairs = zip(chances.tolist(), numbers.tolist(), strict=True)
    return [f"{model.labels[number]} {chance:.0%}" for chance, number in pairs]
