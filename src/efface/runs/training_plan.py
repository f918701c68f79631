"""What a method that trains will touch and take on a model folder, from configs and headers."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from efface.hosts.folders import empty_network
from efface.hosts.libraries import check_configs, library_class
from efface.hosts.shards import folder_json, stored_tensors
from efface.runs.gradient_eraser import require_anchor

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
    part: str
    """The network that they are in, such as ``unet``."""
    parameters: int
    """Values in them."""
    share: float
    """Their share of that network's values, 0 to 1."""
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
    require_anchor(method, request)
    trainable = method.trainable(len(request.erasures))
    part = survey.denoiser if "unet" in method.edits else min(method.edits)
    empty = _empty(survey, part)
    shapes = [weight.shape for weight in method.chosen(empty).values()]
    parameters = sum(shape.numel() for shape in shapes)
    added = trainable.rank * sum(shape[0] + shape[1:].numel() for shape in shapes)
    return TrainingPlan(
        tensors=len(shapes),
        part=part,
        parameters=parameters,
        share=parameters / sum(each.numel() for each in vars(empty)[part].parameters()),
        added=added,
        model_bytes=FLOAT * _values(survey),
        training_bytes=FLOAT * (HELD_BESIDE * added if added else HELD_IN_PLACE * parameters),
        delta_bytes=FLOAT * (added or parameters) + (1 << 14) + (len(shapes) << 9),
        copy_bytes=survey.bytes,
    )


def _empty(survey: FolderSurvey, part: str) -> Any:
    """Builds one network of a folder without its values."""
    folder = survey.folder / part
    file = folder / "config.json"
    config = folder_json(file)
    if part == survey.denoiser:
        kind = library_class(file, "diffusers", config.get("_class_name"))
    else:
        kind = library_class(
            file, "transformers", next(iter(config.get("architectures", [])), None)
        )
    check_configs(folder)
    return SimpleNamespace(**{part: empty_network(folder, kind)})


def _values(survey: FolderSurvey) -> int:
    """Counts the values in all networks of a folder."""
    parts = {file.parent for file in survey.folder.glob("*/*.safetensors")}
    return sum(tensor.numel for part in parts for tensor in stored_tensors(part).values())
