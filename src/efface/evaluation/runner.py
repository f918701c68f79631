"""One call from pipeline and delta to an evaluation: draw, score, check, compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efface.contracts import Guide, Judge, Monitor, Sample, Suite, silent
from efface.deltas.recording import peak_bytes
from efface.errors import BadRequest
from efface.evaluation.comparison import image_measurements, set_measurements
from efface.evaluation.controls import Asked, controls_for, unjudged, verdict_of
from efface.evaluation.drawing import guidance_note, guided_by
from efface.evaluation.identity import TensorChange, changes, fingerprints, model_id
from efface.evaluation.images import ImageStore, Source
from efface.evaluation.instruments import Instruments, instruments_for, knows
from efface.evaluation.limits import Limits
from efface.evaluation.locks import locked
from efface.evaluation.looking import NOBODY
from efface.evaluation.record import Control, Cost, Evaluation, Measurement
from efface.evaluation.samples import checked
from efface.evaluation.scores import ScoreBook
from efface.evaluation.scoring import Scorer
from efface.evaluation.sightings import sightings
from efface.evaluation.soundness import detected, still_draws
from efface.guiding.drawing import guides_of
from efface.guiding.records import recorded
from efface.hosts.families import HOSTS
from efface.plain_values import place
from efface.randomness import as_usual, environment

if TYPE_CHECKING:
    from efface.deltas.delta import Delta
    from efface.metrics.clip_score import Clip

__all__ = ["evaluate"]

_TIMES = ("before", "after")


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One evaluation, checked and ready to start."""

    pipe: Any
    delta: Delta | None
    suite: Suite
    judge: Judge | None
    instruments: Instruments
    store: ImageStore
    limits: Limits
    monitor: Monitor


@as_usual()
def evaluate(
    pipe: Any,
    delta: Delta | None,
    suite: Suite,
    judge: Judge | None,
    *,
    store: ImageStore | Path,
    clip: Clip | None = None,
    limits: Limits | None = None,
    monitor: Monitor = silent,
    guides: Sequence[Guide] = (),
) -> Evaluation:
    """Measures what a delta did to a pipeline, with controls, on the same prompts and seeds.

    Pictures and scores that the store has are used; the rest is made and kept there at once, so an
    interrupted evaluation goes on where it stopped, and another metric draws nothing anew.

    Args:
        pipe: the model that the delta was made for; it is left as it was.
        delta: what to measure; None measures the unedited model alone.
        suite: prompts, seeds and metrics.
        judge: asked about every concept of the suite. None: the verdict is "not measured".
        store: where pictures and scores are kept; a path means batches of 16.
        clip: for metrics that need texts and pictures in one space.
        limits: from where on a concept counts as erased, and others as lost.
        monitor: called with pictures done, pictures to draw, and figures, in each of the stages.
        guides: steer sampling after the erasure; numbers are of both together, as reports say.

    Returns:
        An evaluation with a verdict, whether the numbers can be read, and an outcome, what they say
        of the erasure. An instrument that raises or answers NaN makes it "invalid", without
        numbers; it does not raise. A wrecked model, or an edit that does nothing, makes it
        "inconclusive".

    Raises:
        BadRequest: an argument is of another kind, the suite cannot be measured, the judge does
            not know a concept, or another run draws the same pictures.
        MissingInput: a metric needs an instrument that is not there.
        BadDelta: the delta is for another model.
        MeasurementFailed: pictures could not be drawn.
        MemoryRanOut: a picture does not fit into memory, or an instrument does not.
    """
    _check_kinds(delta, suite, judge)
    job = _Job(
        pipe=pipe,
        delta=delta,
        suite=suite,
        judge=judge,
        instruments=instruments_for(suite, judge, clip),
        store=store if isinstance(store, ImageStore) else ImageStore(place("store", store)),
        limits=limits or Limits(),
        monitor=monitor,
    )
    hashes = fingerprints(pipe)
    base = Source.of(suite, model_id(pipe, hashes), guided_by=guided_by(pipe))
    sources = _sources(base, delta, guides_of(guides))
    with locked(job.store.folder / sources[-1].key), torch.no_grad():
        foreign = [len(job.store.foreign(source, suite.samples)) for source in sources]
        changed = _draw(job, sources, hashes)
        return _measured(job, sources, changed, sum(foreign))


def _sources(
    base: Source, delta: Delta | None, guides: Sequence[Guide]
) -> tuple[Source] | tuple[Source, Source]:
    """Gives what draws before and after the erasure; before it nothing is steered."""
    if delta is not None:
        return base, replace(base, delta=delta.id, guides=recorded(guides))
    if guides:
        raise BadRequest(
            "guides are measured on an erased model, against the unedited one; give a delta"
        )
    return (base,)


def _check_kinds(delta: Any, suite: Any, judge: Any) -> None:
    """Refuses what stands in the place of something else, and concepts that a judge does not know.

    Raises:
        BadRequest: naming it.
    """
    if not (delta is None or hasattr(delta, "patches")):
        raise BadRequest(
            f"a {type(delta).__name__} is no delta; give result.delta, or efface.Delta.load(PATH)"
        )
    if not isinstance(suite, Suite):
        raise BadRequest(
            f"a {type(suite).__name__} is no suite; make one: "
            "efface.evaluation.suites.suite_for('basic', request)"
        )
    if not (judge is None or hasattr(judge, "presence")):
        raise BadRequest(f"a {type(judge).__name__} is no judge; give one that has presence()")
    _check_known(judge, checked(suite.samples))


def _check_known(judge: Judge | None, samples: Sequence[Sample]) -> None:
    if judge is None:
        return
    named = (concept for one in samples for concept in (one.concept, one.style, *one.others))
    asked = {concept for concept in named if concept is not None}
    unknown = sorted(concept.name for concept in asked if not knows(judge, concept))
    if unknown:
        raise BadRequest(
            f"judge {judge.card.name} cannot recognise {', '.join(unknown)}; "
            "choose another judge or take these out of the suite"
        )


def _draw(
    job: _Job, sources: Sequence[Source], hashes: Mapping[str, str]
) -> tuple[TensorChange, ...]:
    """Draws what is missing of both sets and says which tensors the delta changed."""
    samples = job.suite.samples
    job.store.fill(job.pipe, sources[0], samples, job.monitor)
    if job.delta is None:
        return ()
    with job.delta.apply(job.pipe):
        changed = changes(job.pipe, hashes, fingerprints(job.pipe))
        job.store.fill(job.pipe, sources[1], samples, job.monitor)
    return changed


def _measured(
    job: _Job, sources: Sequence[Source], changed: tuple[TensorChange, ...], foreign: int
) -> Evaluation:
    """Scores, checks and compares the pictures, and puts everything on record."""
    book = ScoreBook.open(job.store.folder, [source.key for source in sources])
    scorer = Scorer(job.store, book, monitor=job.monitor)
    controls = _score(job, scorer, sources)
    seen = sightings(job.judge, scorer, job.suite.samples, sources)
    measurements = _measurements(job, scorer, sources)
    verdict, reasons = verdict_of(scorer.failures, controls)
    if job.judge is None and verdict != "invalid":
        verdict, reasons = "not measured", unjudged(controls)
    ran = environment()
    return Evaluation(
        suite=f"{job.suite.name}@{job.suite.version}",
        judge=NOBODY if job.judge is None else job.judge.card,
        verdict=verdict,
        reasons=reasons,
        measurements=measurements,
        controls=controls,
        costs={name: _cost(job, source) for name, source in zip(_TIMES, sources, strict=False)},
        changed=changed,
        samples=job.suite.samples,
        before=sources[0],
        after=sources[1] if len(sources) > 1 else None,
        provenance=asdict(job.delta.provenance) if job.delta else {},
        instruments=job.instruments.names,
        leftover_judge=job.instruments.leftover_card,
        identities=job.instruments.identities,
        limits=job.limits,
        sightings=seen if measurements else (),
        answers=_answers(job, scorer, sources) if measurements else {},
        notes=(
            *_guidance(job),
            *_pictured(job.pipe),
            *_notes(foreign, book, _unmoved(job, sources)),
        ),
        store=job.store.folder,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={**ran.versions, "commit": ran.commit + ("+changes" if ran.dirty else "")},
    )


def _answers(job: _Job, scorer: Scorer, sources: Sequence[Source]) -> dict[str, tuple[float, ...]]:
    """Collects what every picture scored, metric by metric."""
    return {
        f"{metric.name} {time}": tuple(
            scorer.values(job.instruments.measure(metric), source, job.suite.samples)
        )
        for metric in job.instruments.image_metrics
        for time, source in zip(_TIMES, sources, strict=False)
    }


def _guidance(job: _Job) -> tuple[str, ...]:
    note = guidance_note(job.pipe, job.suite.guidance)
    return () if note is None else (note,)


def _unmoved(job: _Job, sources: Sequence[Source]) -> dict[str, int]:
    return job.store.unmoved(sources[-1], job.suite.samples) if sources[-1].guides else {}


def _pictured(pipe: Any) -> tuple[str, ...]:
    """Says what the pictures are, where the pipeline draws something else."""
    return tuple(host.pictured for host in HOSTS if host.recognises(pipe) and host.pictured)


def _notes(foreign: int, book: ScoreBook, unmoved: Mapping[str, int]) -> Iterator[str]:
    for guide, count in unmoved.items():
        yield f"{guide} changed nothing beyond rounding in {count} pictures that it was to change"
    if foreign:
        yield (
            f"{foreign} pictures in {book.folder} were not those that had been drawn (changed, "
            "swapped, linked, cut short, or of an older version without a hash): drawn anew"
        )
    if book.nameless:
        yield (
            f"{book.nameless} scores in {book.folder} are of an older version and do not say which "
            "instrument gave them: not used, its pictures were judged again"
        )


def _cost(job: _Job, source: Source) -> Cost:
    spent = job.store.spent(source, job.suite.samples)
    return Cost(
        pictures=spent.pictures,
        seconds=spent.seconds,
        network_evaluations=spent.evaluations,
        peak_bytes=peak_bytes(job.pipe),
    )


def _score(job: _Job, scorer: Scorer, sources: Sequence[Source]) -> tuple[Control, ...]:
    samples = job.suite.samples
    asked = None if job.judge is None else Asked(job.judge, job.instruments)
    controls = () if asked is None else controls_for(scorer, asked, samples, base=sources[0])
    if job.delta is not None:
        edit = detected(job.pipe, job.delta, samples)
        controls = (*controls, still_draws(scorer, asked, samples, sources), edit)
    for metric in job.instruments.image_metrics:
        scored = [sample for sample in job.suite.samples if metric.applies(sample)]
        for source in sources:
            scorer.fill(job.instruments.measure(metric), metric.scores, source, scored)
    return controls


def _measurements(job: _Job, scorer: Scorer, sources: Sequence[Source]) -> tuple[Measurement, ...]:
    """Estimates everything, or nothing at all once anything has failed."""
    if scorer.failures:
        return ()
    found = image_measurements(scorer, job.instruments, job.suite.samples, sources)
    found += set_measurements(scorer, job.instruments, job.suite.samples, sources)
    return () if scorer.failures else tuple(found)
