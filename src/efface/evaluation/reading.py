"""What evaluations of models that read pictures share: roles of classes, both looks, the record."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Generic, TypeVar

from efface.content import content_hash
from efface.contracts import JudgeCard, ModelKind, Role, Sample
from efface.deltas.application import unedited
from efface.deltas.delta import Delta
from efface.deltas.recording import peak_bytes
from efface.errors import MissingInput
from efface.evaluation.controls import verdict_of
from efface.evaluation.identity import TensorChange, changes, fingerprints
from efface.evaluation.images import ImageStore, Source
from efface.evaluation.limits import Limits
from efface.evaluation.record import Control, Cost, Evaluation, Measurement, Sighting
from efface.hosts.vision import VisionModel
from efface.metrics.estimates import UNKNOWN
from efface.randomness import environment

__all__ = ["Findings", "Pair", "class_roles", "reading_cost", "truth"]

VERSION = 1

LookT = TypeVar("LookT")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found on held-out data; nothing is measured where an answer cannot be counted."""

    samples: tuple[Sample, ...]
    failures: Sequence[str] = ()
    """Why nothing is measured."""
    controls: tuple[Control, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    """By "before" and "after"."""


@dataclass(frozen=True)
class Pair(Generic[LookT]):
    """What the unedited and the edited model make of the same data."""

    before: LookT
    after: LookT
    base: Source
    edited: Source
    changed: tuple[TensorChange, ...]

    @classmethod
    def of(cls, model: VisionModel, delta: Delta, look: Callable[[int], LookT]) -> Pair[LookT]:
        """Looks at the data twice.

        Args:
            model: with earlier requests in force, if the delta stands on some.
            delta: what is measured.
            look: asks the model as it is; 0 is the first time, 1 the second.

        Raises:
            BadDelta: the delta is for another model.
        """
        with unedited(model):
            hashes = fingerprints(model)
            before = look(0)
        with delta.apply(model):
            changed = changes(model, hashes, fingerprints(model))
            after = look(1)
        base = Source(content_hash(hashes, model.labels, model.preprocessing), None, 0, 0.0)
        return cls(before, after, base, replace(base, delta=delta.id), changed)

    def record(
        self,
        delta: Delta,
        findings: Findings,
        *,
        suite: str,
        judge: JudgeCard,
        kind: ModelKind,
        limits: Limits,
        store: ImageStore,
    ) -> Evaluation:
        """Puts everything on record."""
        verdict, reasons = verdict_of(findings.failures, findings.controls)
        ran = environment()
        return Evaluation(
            suite=f"{suite}@{VERSION}",
            model_kind=kind,
            judge=judge,
            verdict=verdict,
            reasons=reasons,
            measurements=findings.measurements,
            controls=findings.controls,
            costs=findings.costs,
            changed=self.changed,
            samples=findings.samples,
            before=self.base,
            after=self.edited,
            provenance=asdict(delta.provenance),
            instruments={"judge": judge.name},
            identities={"judge": judge.version},
            limits=limits,
            sightings=findings.sightings,
            store=store.folder,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={**ran.versions, "commit": ran.commit + ("+changes" if ran.dirty else "")},
        )


def class_roles(
    names: Sequence[str],
    shown: Collection[int],
    what: str,
    *,
    erased: Sequence[int],
    earlier: Sequence[int],
    missing: Sequence[int],
) -> dict[int, Role]:
    """Says what each class of held-out data stands for.

    Args:
        names: of the classes, by number.
        shown: classes that the data show.
        what: the data, such as "pictures".
        erased: classes of this request.
        earlier: classes that earlier requests erased.
        missing: kept classes of which training saw nothing.

    Raises:
        MissingInput: the data show nothing of a class that is erased, or nothing else.
    """
    if lacking := [number for number in erased if number not in shown]:
        raise MissingInput(
            f"the held-out {what} show no {names[lacking[0]]}, so whether it was forgotten cannot "
            "be measured; give some with --test-data"
        )
    roles: dict[int, Role] = dict.fromkeys(shown, "kept")
    of_roles: tuple[tuple[Role, Sequence[int]], ...]
    of_roles = (("missing", missing), ("earlier", earlier), ("erased", erased))
    for role, numbers in of_roles:
        roles.update((number, role) for number in numbers if number in shown)
    if "kept" not in roles.values():
        raise MissingInput(f"the held-out {what} show nothing that is kept; give some of others")
    return roles


def reading_cost(model: VisionModel, pictures: int, seconds: float) -> Cost:
    """Says what looking at pictures took: one network evaluation each."""
    return Cost(
        pictures=pictures,
        seconds=seconds,
        network_evaluations=float(pictures),
        peak_bytes=peak_bytes(model),
    )


def truth(name: str, identity: str, notes: str) -> JudgeCard:
    """Makes a card of the data's own answers, which stand where generators have a judge."""
    return JudgeCard(
        name=name,
        version=identity,
        threshold=0.5,
        true_positive_rate=UNKNOWN,
        false_positive_rate=UNKNOWN,
        notes=notes,
    )
