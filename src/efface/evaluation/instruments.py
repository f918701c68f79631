"""Metrics by name, built from the judge, the CLIP and the features at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from efface import registry
from efface.concepts import Concept
from efface.content import content_hash
from efface.contracts import ImageMetric, Instrument, Judge, JudgeCard, SetMetric, Suite
from efface.errors import BadRequest, MeasurementFailed, MissingInput
from efface.evaluation.scores import Measure
from efface.metrics.clip_score import Clip

__all__ = ["Instruments", "identity_of", "instruments_for", "knows"]

_BATCH = 16


@runtime_checkable
class _Featured(Protocol):
    def features(self, images: Tensor) -> Tensor:
        """Encodes pictures."""


@runtime_checkable
class _SeesLeftovers(Protocol):
    @property
    def leftovers(self) -> Judge:
        """Gives the judge of leftovers that belongs to this judge's pictures."""


@dataclass(frozen=True)
class Instruments:
    """The metrics of one evaluation and the names of what they measure with."""

    image_metrics: tuple[ImageMetric, ...]
    set_metrics: tuple[SetMetric, ...]
    names: Mapping[str, str]
    """By "judge", "leftover", "clip" and "features"; only those in use."""
    identities: Mapping[str, str]
    """Hashes of their content and settings, by the same names."""
    leftover_card: JudgeCard | None = None
    """What is known about the judge of leftovers, where one is in use."""

    def measure(self, metric: ImageMetric) -> Measure:
        """Names a metric together with its instrument, so that rows of two never mix."""
        named = type(metric).__module__, type(metric).__qualname__, metric.unit, metric.uses
        revision = getattr(metric, "revision", 1)
        instrument = content_hash(named, revision, self.identities[metric.uses])
        return Measure(f"{metric.name} by {self.names[metric.uses]}", instrument)

    def presence_of(self, concept: Concept) -> Measure:
        """Names the question whether a concept is there, whatever picture is asked about."""
        asked = f"presence of {concept.name} by {self.names['judge']}"
        return Measure(asked, content_hash("presence", concept, self.identities["judge"]))


def instruments_for(suite: Suite, judge: Judge | None, clip: Clip | None) -> Instruments:
    """Builds the suite's metrics before any work is done.

    Raises:
        BadRequest: the suite names a metric that does not exist, or lists it in the wrong place.
        MissingInput: a metric needs a CLIP or features, and there are none.
    """
    sources: dict[Instrument, tuple[str, Any]] = {}
    if judge is not None:
        sources["judge"] = (_judge_name(judge), judge)
    sources["pixels"] = ("the pictures alone", None)
    if clip is not None:
        sources["clip"] = (_clip_name(clip), clip)
    if features := _features(judge, clip):
        sources["features"] = features
    asked: Any = judge
    if isinstance(asked, _SeesLeftovers):
        sources["leftover"] = (_judge_name(asked.leftovers), asked.leftovers)
    per_image = [one for one in suite.image_metrics if one != "leftover" or one in sources]
    listed: list[tuple[Sequence[str], str]] = [
        (per_image, "scores"),
        (suite.set_metrics, "distance"),
    ]
    built = [tuple(_built(name, verb, sources) for name in given) for given, verb in listed]
    used = {"judge", *(metric.uses for group in built for metric in group)}
    names = {str(use): name for use, (name, _) in sources.items() if use in used}
    left = sources["leftover"][1] if "leftover" in used else None
    held: dict[str, Any] = {str(use): one for use, (_, one) in sources.items()}
    held["features"] = _holder(judge, clip)
    identities = {use: identity_of(held.get(use)) for use in names}
    if judge is not None and len(per_image) < len(suite.image_metrics):
        names["leftover"] = f"not measured: {_judge_name(judge)} has no judge of leftovers"
    return Instruments(built[0], built[1], names, identities, left and left.card)


def knows(judge: Judge, concept: Concept) -> bool:
    """Asks a judge whether it recognises a concept.

    Raises:
        MeasurementFailed: it raises, or its threshold is no number from 0 to 1.
    """
    threshold = judge.card.threshold
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise MeasurementFailed(
            f"judge {judge.card.name} has the threshold {threshold!r:.40}; it must be a number "
            "from 0 to 1, so mend the judge or choose another one"
        )
    try:
        return bool(judge.knows(concept))
    except Exception as error:
        raise MeasurementFailed(
            f"judge {judge.card.name}, asked whether it knows '{concept.name}', failed: "
            f"{type(error).__name__}: {error}; mend it or choose another one"
        ) from error


def identity_of(instrument: Any) -> str:
    """Names an instrument by its content: its own ``identity``, or a hash of all that it holds.

    The name and version on a judge's card count as well.
    """
    card = getattr(instrument, "card", None)
    named = None if card is None else (card.name, card.version)
    own = getattr(instrument, "identity", None)
    kind = type(instrument).__module__, type(instrument).__qualname__
    return content_hash(kind, named, own if isinstance(own, str) else instrument)


def _built(name: str, verb: str, sources: Mapping[Instrument, tuple[str, Any]]) -> Any:
    found = registry.load("metrics", name)
    if not hasattr(found, verb):
        kind = "one picture" if verb == "scores" else "two sets of pictures"
        raise BadRequest(f"{name} does not score {kind}; list it with the suite's other metrics")
    if found.uses not in sources:
        raise MissingInput(
            f"{name} needs {found.uses}, and neither the judge nor clip= has it; "
            "pass clip=FolderClip(folder) or leave the metric out of the suite"
        )
    return found(sources[found.uses][1])


def _features(judge: Any, clip: Clip | None) -> tuple[str, Callable[[Tensor], Tensor]] | None:
    if isinstance(judge, _Featured):
        return f"features of {_judge_name(judge)}", _in_batches(judge.features)
    if clip is not None:
        return f"image features of {_clip_name(clip)}", _in_batches(clip.image_features)
    return None


def _holder(judge: Judge | None, clip: Clip | None) -> Any:
    """Gives what features come from."""
    return judge if isinstance(judge, _Featured) else clip


def _in_batches(encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda images: torch.cat([encode(batch) for batch in images.split(_BATCH)])


def _judge_name(judge: Any) -> str:
    return f"{judge.card.name}@{judge.card.version}"


def _clip_name(clip: Clip) -> str:
    return str(getattr(clip, "name", type(clip).__name__))
