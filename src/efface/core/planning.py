"""What a closed form will touch, take and write on a model folder, estimated from file headers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from efface.concepts import ErasureRequest, wordings
from efface.models.survey import FolderSurvey

__all__ = ["WorkPlan", "plan_work"]

# Measured by `benchmarks/full_size.py` on the machine named in benchmarks/results/full_size.json,
# with one thread. Estimates are for that machine: others differ by their speed.
START_SECONDS = 4.5
"""Importing torch and transformers."""
START_BYTES = 400 << 20
"""Resident size after that."""
ENCODER_RATE = 50e9
"""Float32 operations a second in a text encoder."""
SOLVER_RATE = 25e9
"""Float64 operations a second in the solver."""
READ_RATE = 0.5e9
"""Bytes a second from the files, widening included."""
ROUND_CUBES = 40
"""Operations of one solve with its checks, in cubes of the text width."""
SQUARES = 12
"""Float64 matrices, text width squared, that are held at the same time."""
ROW_COPIES = 8
"""Copies of all token rows, in float64, that are held at the same time."""


@dataclass(frozen=True, kw_only=True)
class WorkPlan:
    """The numbers that ``efface plan`` shows; sizes in bytes."""

    tensors: int
    """How many weights are touched."""
    parameters: int
    """Values in them."""
    share: float
    """Their share of the denoiser's values, 0 to 1."""
    touched_bytes: int
    """Their size in the files."""
    prompts: int
    """Different prompts that are embedded."""
    encoder_passes: int
    """Prompts times text encoders."""
    seconds: float
    """Estimated, with one thread of the machine that the constants were measured on."""
    peak_bytes: int
    """Estimated most memory of the process."""
    delta_bytes: int
    """Upper bound of the delta's size."""
    copy_bytes: int
    """Size of the model's folder, which ``efface apply --in-place-copy`` writes."""


def plan_work(found: FolderSurvey, method: Any, request: ErasureRequest) -> WorkPlan:
    """Estimates an erasure.

    Args:
        found: the model.
        method: an eraser with its settings.
        request: what goes and what stays.
    """
    prompts = len(_prompts(method, request))
    width = found.width
    rows = prompts * sum(encoder.length for encoder in found.encoders)
    rounds = 1 + int(getattr(method, "rounds", 0))
    parameters = sum(tensor.numel for tensor in found.touched.values())
    touched_bytes = sum(tensor.bytes for tensor in found.touched.values())
    encoding = sum(2 * e.weights * e.length * prompts for e in found.encoders)
    solving = (rounds * ROUND_CUBES * width + 6 * parameters / width) * width**2
    reading = touched_bytes + sum(encoder.bytes for encoder in found.encoders)
    layer = max(6 * encoder.largest for encoder in found.encoders)
    dense = 8 * (SQUARES * width**2 + ROW_COPIES * rows * width)
    return WorkPlan(
        tensors=len(found.touched),
        parameters=parameters,
        share=parameters / found.denoiser_weights,
        touched_bytes=touched_bytes,
        prompts=prompts,
        encoder_passes=prompts * len(found.encoders),
        seconds=START_SECONDS
        + encoding / ENCODER_RATE
        + solving / SOLVER_RATE
        + reading / READ_RATE,
        peak_bytes=START_BYTES + touched_bytes + max(layer, dense),
        delta_bytes=_delta_bytes(width, rows),
        copy_bytes=sum(f.stat().st_size for f in found.folder.rglob("*") if f.is_file()),
    )


def _prompts(method: Any, request: ErasureRequest) -> set[str]:
    """Lists what is embedded: wordings, what takes their place, and what is kept or looked at."""
    prompts = {"", *getattr(method, "always_keep", ())}
    for erasure in request.erasures:
        for text in wordings(erasure.concept):
            anchor = erasure.anchor.name if erasure.anchor else ""
            whole = getattr(method, "target", "anchor") == "anchor" and not anchor
            prompts |= {text} if whole else {text, text.replace(erasure.concept.name, anchor)}
    return prompts | {text for concept in request.keep for text in wordings(concept)}


def _delta_bytes(width: int, rows: int) -> int:
    """Bounds the size of one map of the text side: two float32 factors of full rank at most."""
    header = 1 << 14
    return header + 2 * 4 * width * min(width, rows)
