"""A delta of one model, made to fit a fine-tune of it, as SPM does with its membranes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from efface.concepts import request_from, wordings
from efface.deltas.base_prints import base_prints
from efface.deltas.delta import Delta
from efface.deltas.provenance import base_sketch, sketch_deviation
from efface.deltas.recording import model_name
from efface.diffusion.denoising import Denoiser
from efface.errors import BadDelta
from efface.hosts.components import find

__all__ = ["distance", "transferred"]

OPEN = 0.5
"""How far a gate must open for some wording of the concept."""


def transferred(delta: Delta, model: Any) -> Delta:
    """Gives the same change, for a model whose weights differ from those that it was made on.

    Nothing is trained or solved again: what was added to the old weights is added to the new ones.
    Whether the concept goes there too, and what else goes, is to be measured. A gate goes on
    reading prompts as it did, so the new model must read text as the old one does.

    Args:
        delta: without parents; compose those first.
        model: a pipeline of the same layout.

    Raises:
        BadDelta: it was made on top of other deltas, a weight is missing or of another shape, or
            its gate stays shut for the concept.
    """
    if delta.provenance.parents:
        raise BadDelta(
            f"delta {delta.id} was made on top of {', '.join(delta.provenance.parents)}; compose "
            "them and transfer the result"
        )
    for key in delta.keys:
        for name, weight in find(model, key).items():
            delta.difference(name, weight)
    _check_gate(delta, model)
    made = delta.provenance
    return replace(
        delta,
        provenance=replace(
            made,
            base_model=model_name(model),
            base_sketch=base_sketch(model, delta.keys),
            base_prints=base_prints(model),
            made_on=made.made_on or made.base_model,
        ),
    )


def _check_gate(delta: Delta, model: Any) -> None:
    """Refuses a gate that stays shut for the concept, read by this model's text encoder."""
    if delta.gate is None:
        return
    denoiser = Denoiser(model)
    for erasure in request_from(delta.provenance.request).erasures:
        rows = denoiser.conditions(list(wordings(erasure.concept))).rows
        if float(delta.gate.openings(rows.float().cpu()).amax()) < OPEN:
            raise BadDelta(
                f"the gate of delta {delta.id} stays shut for {erasure.concept.name} as this model "
                "reads it; its text encoder differs, so make the delta again on this model"
            )


def distance(delta: Delta, model: Any) -> float:
    """Says how far a model is from the one a delta was made for: the largest relative deviation.

    It is taken from sixteen values of every weight that the delta changes.
    """
    here = base_sketch(model, delta.keys)
    return max(
        sketch_deviation(here[key], expected)
        for key, expected in delta.provenance.base_sketch.items()
    )
