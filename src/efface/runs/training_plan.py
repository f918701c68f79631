"""What a method that trains will touch and take on a model folder, from configs and headers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from efface.hosts.folders import empty_network
from efface.hosts.libraries import check_configs, library_class
from efface.hosts.shards import folder_json, stored_tensors

if TYPE_CHECKING:
    from efface.concepts import ErasureRequest
    from efface.hosts.survey import FolderSurvey
    from efface.runs.gradient_eraser import GradientEraser

__all__ = ["TrainingPlan", "plan_training"]

FLOAT = 4
"""Bytes of a value; training needs float32."""
HELD_IN_PLACE = 4
"""Copies of trained weights beside them: the originals, gradients and Adam's two averages."""
HELD_BESIDE = 4
"""Copies of low-rank layers: themselves, gradients and Adam's two averages."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The numbers that ``efface plan`` shows of training; sizes in bytes."""

    tensors: int
    """How many weights are trained, or get a low-rank layer beside them."""
    parameters: int
    """Values in them."""
    part: str
    """The networks that they are in."""
    share: float
    """Their share of the values in there, 0 to 1."""
    added: int
    """Values in the low-rank layers; 0: the weights themselves are trained."""
    model_bytes: int
    """All networks of the pipeline in float32."""
    training_bytes: int
    """Originals, gradients and averages beside them; not what one step computes."""
    delta_bytes: int
    """Upper bound of the delta's size."""
    copy_bytes: int
    """Size of the model's folder."""


def plan_training(
    survey: FolderSurvey, method: GradientEraser, request: ErasureRequest
) -> TrainingPlan:
    """Counts what training will hold; no weight is read.

    Raises:
        BadRequest: the model has nothing in the method's role, or a concept lacks the anchor that
            the method puts in its place.
    """
    method.check_request(request)
    trainable = method.trainable(len(request.erasures))
    chosen = method.chosen(_empty(survey, method.edits), len(request.erasures))
    shapes = [weight.shape for weight in chosen.values()]
    parameters = sum(shape.numel() for shape in shapes)
    parts = sorted({key.partition("/")[0] for key in chosen})
    whole = sum(_held(survey, part) for part in parts)
    added = trainable.rank * sum(shape[0] + shape[1:].numel() for shape in shapes)
    return TrainingPlan(
        tensors=len(shapes),
        parameters=parameters,
        part=" and ".join(parts),
        share=parameters / whole,
        added=added,
        model_bytes=FLOAT * _values(survey),
        training_bytes=FLOAT * (HELD_BESIDE * added if added else HELD_IN_PLACE * parameters),
        delta_bytes=FLOAT * (added or parameters) + (1 << 14) + (len(shapes) << 9),
        copy_bytes=survey.bytes,
    )


def _empty(survey: FolderSurvey, edits: Collection[str]) -> Any:
    """Builds the denoiser, and the text encoders that a method edits, without their values."""
    part = survey.folder / survey.denoiser
    denoiser = str(folder_json(part / "config.json").get("_class_name"))
    kinds = {survey.denoiser: ("diffusers", denoiser)}
    kinds |= {e.name: ("transformers", e.kind) for e in survey.encoders if e.name in edits}
    made = {}
    for name, (library, kind) in kinds.items():
        part = survey.folder / name
        check_configs(part)
        made[name] = empty_network(part, library_class(part / "config.json", library, kind))
    return SimpleNamespace(**made)


def _held(survey: FolderSurvey, part: str) -> int:
    """Counts the values in one network of a folder."""
    return sum(tensor.numel for tensor in stored_tensors(survey.folder / part).values())


def _values(survey: FolderSurvey) -> int:
    """Counts the values in all networks of a folder."""
    parts = {file.parent for file in survey.folder.glob("*/*.safetensors")}
    return sum(tensor.numel for part in parts for tensor in stored_tensors(part).values())
