"""What counts as erased, and what as lost: shares that a user may set."""

from __future__ import annotations

from dataclasses import dataclass, fields

from efface.errors import BadRequest

__all__ = ["FEWEST_PICTURES", "Limits"]

FEWEST_PICTURES = 4
"""Rows with fewer pictures decide nothing."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Between which shares an erasure counts as what.

    Raises:
        BadRequest: a limit outside 0 to 1.
    """

    most_present: float = 0.1
    """Erased: the judge sees the concept in at most this share of the pictures of its prompts, and
    of its synonyms' and paraphrases'; something of it is left in at most this share."""
    partly_present: float = 0.5
    """Partly erased: its presence in its own prompts is at most this share of what it was."""
    least_kept: float = 0.8
    """Others lost: presence in kept and general prompts, in neighbours, or of styles falls below
    this share of what it was."""
    least_each: float = 0.5
    """Others lost, too: presence of a single concept falls below this share of what it was."""

    def __post_init__(self) -> None:
        for field in fields(Limits):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise BadRequest(
                    f"{field.name} is {value}; it is a share and must be between 0 and 1"
                )
