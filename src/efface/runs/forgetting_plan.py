"""What a method that forgets pictures will train on a model's folder, from its config alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from efface.concepts import ErasureRequest
from efface.errors import BadRequest
from efface.hosts.vision_families import empty_vision, vision_host
from efface.registry import VISION, bundled
from efface.runs.checks import check_family
from efface.runs.forgetting_data import erased_classes
from efface.runs.forgetting_eraser import ForgettingEraser

__all__ = ["ForgettingPlan", "plan_forgetting"]


@dataclass(frozen=True, kw_only=True)
class ForgettingPlan:
    """The numbers that ``efface plan`` shows of forgetting."""

    network: str
    """Class of the network."""
    family: str
    """Kind of the model."""
    tensors: int
    """How many weights are trained, or get a low-rank layer beside them."""
    parameters: int
    """Values in them."""
    share: float
    """Their share of the network's values, 0 to 1."""
    added: int
    """Values in the low-rank layers; 0: the weights themselves are trained."""
    delta_bytes: int
    """Upper bound of the delta's size."""
    copy_bytes: int
    """Size of the model's folder."""


def plan_forgetting(
    model: str, name: str, method: object, request: ErasureRequest
) -> ForgettingPlan:
    """Counts what is trained; no weight is read.

    Args:
        model: a bundled model, or a folder.
        name: of the method.
        method: its settings.
        request: what goes.

    Raises:
        BadModel: the folder is broken, or of a class that efface does not know.
        BadRequest: the method does not edit this kind of model, or the head lacks a class.
    """
    folder = Path(bundled(model).folder(model)) if model in VISION else Path(model)
    empty = empty_vision(folder)
    host = vision_host(empty)
    check_family(name, getattr(method, "families", ()), host.key)
    if not isinstance(method, ForgettingEraser):
        raise BadRequest(f"{name} does not say what it trains, so it cannot be planned; run it")
    erased_classes(empty.labels, request)
    rank = int(getattr(method, "rank", 0))
    trained = method.trainable(host).values()
    shapes = [weight.shape for weight in trained if not rank or weight.ndim > 1]
    parameters = sum(shape.numel() for shape in shapes)
    added = rank * sum(shape[0] + shape[1:].numel() for shape in shapes)
    return ForgettingPlan(
        network=type(empty.model).__name__,
        family=host.key,
        tensors=len(shapes),
        parameters=parameters,
        share=parameters / sum(weight.numel() for weight in empty.model.parameters()),
        added=added,
        delta_bytes=4 * (added or parameters),
        copy_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    )
