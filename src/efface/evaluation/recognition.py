"""Measures what a request did to a classifier or recogniser, on held-out pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.concepts import Concept
from efface.content import content_hash
from efface.contracts import JudgeCard, ModelKind, Monitor, Role, Sample, silent
from efface.data.pictures import LabelledPictures
from efface.deltas.application import unedited
from efface.deltas.delta import Delta
from efface.deltas.recording import peak_bytes
from efface.errors import BadRequest, MissingInput
from efface.evaluation.answers import Answers
from efface.evaluation.captioned import write_captioned
from efface.evaluation.controls import verdict_of
from efface.evaluation.identity import TensorChange, changes, fingerprints
from efface.evaluation.images import ImageStore, Source
from efface.evaluation.limits import Limits
from efface.evaluation.recognition_controls import forgetting_controls
from efface.evaluation.recognition_rows import Seen, measured, went
from efface.evaluation.record import Cost, Evaluation
from efface.hosts.classifier import Classifier
from efface.hosts.recogniser import Recogniser
from efface.hosts.vision import VisionModel
from efface.hosts.vision_families import vision_host
from efface.metrics.estimates import UNKNOWN
from efface.randomness import environment

__all__ = ["PictureSuite", "evaluate_recogniser", "picture_suite"]

VERSION = 1
_SHOWN = 8
"""Pictures of each role that are kept for the report."""
_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class PictureSuite:
    """Held-out pictures, numbered as the model's head is, and what each class stands for."""

    name: str
    pictures: LabelledPictures
    roles: Mapping[int, Role]
    """By class; classes without a role are left out."""
    strangers: LabelledPictures | None = None
    """Pictures of classes that the model never knew."""

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

    Raises:
        MissingInput: there is no picture of a class that is erased, or none of any other.
    """
    held = {int(number) for number in pictures.labels.unique()}
    if lacking := [number for number in erased if number not in held]:
        raise MissingInput(
            f"the held-out pictures show no {pictures.names[lacking[0]]}, so whether it was "
            "forgotten cannot be measured; give some with --test-data"
        )
    roles: dict[int, Role] = dict.fromkeys(held, "kept")
    of_roles: tuple[tuple[Role, Sequence[int]], ...]
    of_roles = (("missing", missing), ("earlier", earlier), ("erased", erased))
    for role, numbers in of_roles:
        roles.update(dict.fromkeys(numbers, role))
    if "kept" not in roles.values():
        raise MissingInput("the held-out pictures show nothing that is kept; give some of others")
    there = {number: role for number, role in roles.items() if number in held}
    return PictureSuite(name=name, pictures=pictures, roles=there, strangers=strangers)


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
        hashes = fingerprints(model)
        before = _seen(host, suite, monitor, 0)
        strangers = None if suite.strangers is None else _logits(host, suite.strangers)
    with delta.apply(model):
        changed = changes(model, hashes, fingerprints(model))
        after = _seen(host, suite, monitor, 1)
    base = Source(content_hash(hashes, model.labels, model.preprocessing), None, 0, 0.0)
    both = (before, after)
    found = _Compared(model, suite, base, replace(base, delta=delta.id), *both, changed, strangers)
    return found.evaluation(host, delta, ImageStore(store), limits or Limits())


@dataclass(frozen=True)
class _Compared:
    """What both models say of the same pictures."""

    model: VisionModel
    suite: PictureSuite
    base: Source
    edited: Source
    before: Seen
    after: Seen
    changed: tuple[TensorChange, ...]
    strangers: Float[Tensor, "n classes"] | None
    """The unedited model's logits for pictures of classes that it never knew."""

    def evaluation(
        self, host: Classifier, delta: Delta, store: ImageStore, limits: Limits
    ) -> Evaluation:
        """Puts everything on record."""
        suite, before, after = self.suite, self.before, self.after
        labels = suite.pictures.labels[suite.places]
        failures = [
            f"the {name} model gives answers that are not finite"
            for name, seen in (("unedited", before), ("edited", after))
            if not seen.finite
        ]
        whole = not failures
        controls = (
            forgetting_controls(
                Answers(before.logits, labels),
                after.logits,
                _roles(suite, labels),
                names=self.model.labels,
                strangers=self.strangers,
            )
            if before.finite
            else ()
        )
        verdict, reasons = verdict_of(failures, controls)
        seen = (before, after, labels, _roles(suite, labels))
        samples = _samples(suite, labels)
        self._keep_pictures(store, samples)
        ran = environment()
        return Evaluation(
            suite=f"{suite.name}@{VERSION}",
            model_kind=_kind(host),
            judge=_truth(suite),
            verdict=verdict,
            reasons=reasons,
            measurements=tuple(measured(*seen, suite.pictures.names)) if whole else (),
            controls=controls,
            costs={"before": self._cost(before), "after": self._cost(after)},
            changed=self.changed,
            samples=samples,
            before=self.base,
            after=self.edited,
            provenance=asdict(delta.provenance),
            instruments={"judge": f"names of {suite.name}"},
            identities={"judge": suite.pictures.identity},
            limits=limits,
            sightings=tuple(went(*seen, self.model.labels)) if whole else (),
            store=store.folder,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={**ran.versions, "commit": ran.commit + ("+changes" if ran.dirty else "")},
        )

    def _keep_pictures(self, store: ImageStore, samples: Sequence[Sample]) -> None:
        said = {
            self.base: _answers(self.model, self.before),
            self.edited: _answers(self.model, self.after),
        }
        pictures, places = self.suite.pictures, self.suite.places.tolist()
        write_captioned(store, lambda n: pictures.read([places[n]])[0], samples, _SHOWN, said)

    def _cost(self, seen: Seen) -> Cost:
        count = len(seen.logits)
        return Cost(
            pictures=count,
            seconds=seen.seconds,
            network_evaluations=float(count),
            peak_bytes=peak_bytes(self.model),
        )


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
    return Seen(
        logits=torch.cat(parts),
        features=torch.cat(features),
        within_margin=held,
        seconds=seconds,
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


def _truth(suite: PictureSuite) -> JudgeCard:
    """The data's own names stand where generators have a judge."""
    return JudgeCard(
        name=f"names of {suite.name}",
        version=suite.pictures.identity,
        threshold=0.5,
        true_positive_rate=UNKNOWN,
        false_positive_rate=UNKNOWN,
        notes="A picture counts as recognised when the model gives it the name it has in the data.",
    )
