"""Anchors that a request does not name: the kept concepts that are nearest to the erased ones."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from efface.concepts import ErasureRequest
from efface.errors import BadRequest
from efface.text.branches import TextBranch

__all__ = ["toward_nearest"]


def toward_nearest(request: ErasureRequest, branch: TextBranch) -> ErasureRequest:
    """Gives every erasure without an anchor the kept concept that is nearest to it.

    One map of the text moves less when it has less far to go: with many concepts at once that
    spares the others more than steering to the empty prompt or to the words around them. Ours.

    Args:
        request: what is erased and kept.
        branch: distances are between the values that its layers make of the rows of two names, in
            the first of its streams.

    Raises:
        BadRequest: an erasure has no anchor, and nothing is kept.
    """
    unnamed = [erasure for erasure in request.erasures if erasure.anchor is None]
    if not unnamed:
        return request
    if not request.keep:
        raise BadRequest(
            f"the anchor of '{unnamed[0].concept.name}' is to be the nearest kept concept, and "
            "none is kept; name an anchor or concepts to keep"
        )
    factor = branch.value_factor()
    kept = _values(branch, factor, [concept.name for concept in request.keep])
    erased = _values(branch, factor, [erasure.concept.name for erasure in unnamed])
    nearest = iter(torch.cdist(erased, kept).argmin(dim=1).tolist())
    erasures = tuple(
        erasure
        if erasure.anchor is not None
        else replace(erasure, anchor=replace(request.keep[next(nearest)], prompts=()))
        for erasure in request.erasures
    )
    return replace(request, erasures=erasures)


def _values(
    branch: TextBranch, factor: Float[Tensor, "_ dim"], names: list[str]
) -> Float[Tensor, "n values"]:
    """Gives the values of each name's rows, ``F x`` side by side."""
    return (branch.streams[0].embedded(names) @ factor.T).flatten(1)
