"""One call from pipeline and delta to an evaluation: draw, score, check, compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efface.contracts import Judge, Monitor, Sample, Suite, silent
from efface.core.randomness import environment
from efface.core.recording import peak_bytes
from efface.errors import BadRequest
from efface.evaluation.comparison import image_measurements, set_measurements
from efface.evaluation.controls import controls_for, verdict_of
from efface.evaluation.identity import TensorChange, changes, fingerprints, model_id
from efface.evaluation.images import ImageStore, Source
from efface.evaluation.instruments import Instruments, instruments_for
from efface.evaluation.locks import locked
from efface.evaluation.record import Control, Cost, Evaluation, Measurement
from efface.evaluation.samples import checked
from efface.evaluation.scores import ScoreBook
from efface.evaluation.scoring import Scorer

if TYPE_CHECKING:
    from efface.core.deltas import Delta
    from efface.metrics.clip_score import Clip

__all__ = ["evaluate"]


@dataclass(frozen=True)
class _Drawn:
    """Both sets of pictures, where they came from and what they cost."""

    sources: tuple[Source, ...]
    """The unedited model, then the edited one if there is one."""
    costs: Mapping[str, Cost]
    changed: tuple[TensorChange, ...]


def evaluate(
    pipe: Any,
    delta: Delta | None,
    suite: Suite,
    judge: Judge,
    *,
    store: ImageStore | Path,
    clip: Clip | None = None,
    monitor: Monitor = silent,
) -> Evaluation:
    """Measures what a delta did to a pipeline, with controls, on the same prompts and seeds.

    Pictures and scores that the store has are used; the rest is made and kept there at once, so an
    interrupted evaluation goes on where it stopped, and another metric draws nothing anew.

    Args:
        pipe: the model that the delta was made for; it is left as it was.
        delta: what to measure; None measures the unedited model alone.
        suite: prompts, seeds and metrics.
        judge: asked about every concept of the suite; its card goes into the report.
        store: where pictures and scores are kept; a path means batches of 16.
        clip: for metrics that need texts and pictures in one space.
        monitor: called with pictures done, pictures to draw, and figures, in each of the stages.

    Returns:
        An evaluation with a verdict. An instrument that raises or answers NaN makes it "invalid",
        without numbers; it does not raise.

    Raises:
        BadRequest: the suite cannot be measured, the judge does not know a concept, or another run
            uses the store.
        MissingInput: a metric needs an instrument that is not there.
        BadDelta: the delta is for another model.
        MeasurementFailed: pictures could not be drawn.
    """
    samples = checked(suite.samples)
    _check_known(judge, samples)
    instruments = instruments_for(suite, judge, clip)
    kept = store if isinstance(store, ImageStore) else ImageStore(Path(store))
    with locked(kept.folder), torch.no_grad():
        drawn = _draw(pipe, delta, suite, kept, monitor)
        book = ScoreBook.open(kept.folder / "scores.jsonl")
        scorer = Scorer(kept, book, monitor=monitor)
        controls = _score(scorer, instruments, judge, samples, drawn.sources)
        measurements = _measure(scorer, instruments, samples, drawn.sources)
    verdict, reasons = verdict_of(scorer.failures, controls)
    ran = environment()
    return Evaluation(
        suite=f"{suite.name}@{suite.version}",
        judge=judge.card,
        verdict=verdict,
        reasons=reasons,
        measurements=measurements,
        controls=controls,
        costs=drawn.costs,
        changed=drawn.changed,
        samples=samples,
        before=drawn.sources[0],
        after=drawn.sources[1] if delta else None,
        provenance=asdict(delta.provenance) if delta else {},
        instruments=instruments.names,
        store=kept.folder,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={**ran.versions, "commit": ran.commit + ("+changes" if ran.dirty else "")},
    )


def _check_known(judge: Judge, samples: Sequence[Sample]) -> None:
    asked = {concept for one in samples for concept in (one.concept, one.style) if concept}
    unknown = sorted(concept.name for concept in asked if not judge.knows(concept))
    if unknown:
        raise BadRequest(
            f"judge {judge.card.name} cannot recognise {', '.join(unknown)}; "
            "choose another judge or take these out of the suite"
        )


def _draw(
    pipe: Any, delta: Delta | None, suite: Suite, store: ImageStore, monitor: Monitor
) -> _Drawn:
    hashes = fingerprints(pipe)
    base = Source.of(suite, model_id(pipe, hashes))
    store.fill(pipe, base, suite.samples, monitor)
    costs = {"before": _cost(pipe, store, base, suite.samples)}
    if delta is None:
        return _Drawn((base,), costs, ())
    edited = Source.of(suite, base.model, delta.id)
    with delta.apply(pipe):
        changed = changes(pipe, hashes, fingerprints(pipe))
        store.fill(pipe, edited, suite.samples, monitor)
    costs["after"] = _cost(pipe, store, edited, suite.samples)
    return _Drawn((base, edited), costs, changed)


def _cost(pipe: Any, store: ImageStore, source: Source, samples: Sequence[Sample]) -> Cost:
    spent = store.spent(source, samples)
    return Cost(
        pictures=spent.pictures,
        seconds=spent.seconds,
        network_evaluations=spent.evaluations,
        peak_bytes=peak_bytes(pipe),
    )


def _score(
    scorer: Scorer,
    instruments: Instruments,
    judge: Judge,
    samples: Sequence[Sample],
    sources: Sequence[Source],
) -> tuple[Control, ...]:
    controls = controls_for(scorer, judge, samples, base=sources[0])
    for metric in instruments.image_metrics:
        scored = [sample for sample in samples if metric.applies(sample)]
        for source in sources:
            scorer.fill(instruments.measure(metric), metric.scores, source, scored)
    return controls


def _measure(
    scorer: Scorer,
    instruments: Instruments,
    samples: Sequence[Sample],
    sources: Sequence[Source],
) -> tuple[Measurement, ...]:
    """Estimates everything, or nothing at all once anything has failed."""
    if scorer.failures:
        return ()
    found = image_measurements(scorer, instruments, samples, sources)
    found += set_measurements(scorer, instruments, samples, sources)
    return () if scorer.failures else tuple(found)
