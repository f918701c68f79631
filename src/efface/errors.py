"""The five kinds of failure; every text says what happened, what was expected and what to do."""

from __future__ import annotations

__all__ = [
    "BadDelta",
    "BadModel",
    "BadRequest",
    "EffaceError",
    "MeasurementFailed",
    "MissingInput",
    "ModelCollapsed",
    "NothingChanged",
    "Refused",
    "require_positive",
]


class EffaceError(Exception):
    """Anything that efface refuses or cannot do; catch this to catch all five kinds."""


class BadRequest(EffaceError, ValueError):
    """The question makes no sense: an unknown name, an empty concept, a value out of range."""


class Refused(BadRequest):
    """The request asks for something that efface does not do for anybody."""


class MissingInput(EffaceError):
    """Something is missing that a measurement needs, such as a judge for the model."""


class BadModel(EffaceError):
    """A model cannot be used: a file is missing, cut short or holds tensors of another shape."""


class BadDelta(EffaceError):
    """A delta cannot be used: another base, a newer format, a broken file or a missing parent."""


class MeasurementFailed(EffaceError):
    """A number could not be measured, so none is given."""


class NothingChanged(MeasurementFailed):
    """The erasure left the model, or what it does with the concept, as it was."""


class ModelCollapsed(MeasurementFailed):
    """The erasure wrecked the model: not finite, or answers to other prompts exploded."""


def require_positive(method: object, *fields: str) -> None:
    """Refuses settings that are zero or negative, naming the field and the value.

    Raises:
        BadRequest: one of the fields is not above zero.
    """
    for field in fields:
        value = getattr(method, field)
        if not value > 0:
            raise BadRequest(f"{field} is {value}; it must be above zero")
