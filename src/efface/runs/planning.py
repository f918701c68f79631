"""What a closed form will touch, take and write on a model folder, estimated from file headers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from efface.concepts import ErasureRequest
from efface.contracts import Eraser, Work
from efface.hosts.survey import FolderSurvey

__all__ = ["WorkPlan", "plan_work"]

# Measured with one thread on the machine named in benchmarks/results/full_size.json, by the runs
# recorded there and in benchmarks/results/encoders.json. Other machines differ by their speed.
START_SECONDS = 4.0
"""Importing torch and transformers."""
START_BYTES = 390 << 20
"""Resident size after that."""
ENCODER_RATE = 80e9
"""Float32 operations a second in a text encoder."""
SOLVER_RATE = 40e9
"""Float64 operations a second in the solver."""
READ_RATE = 0.7e9
"""Bytes a second from the files, widening included."""
SOLVE_CUBES, ROUND_CUBES = 12, 30
"""Operations of the first solve and of each round of repeated solves, in cubes of the width."""
SOLVE_SQUARES, ROUND_SQUARES = 6, 29
"""Float64 values held at the same time, in squares of the width, without and with rounds."""
REWEIGHING, REWEIGHED_COPIES = 9, 3
"""Of rounds that weigh prompts anew: operations in squares of the width a row, and further copies
of all rows; measured with 17,000 rows of 768 values."""


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


def plan_work(survey: FolderSurvey, method: Eraser[Any], request: ErasureRequest) -> WorkPlan:
    """Estimates an erasure.

    Args:
        survey: the model.
        method: an eraser with its settings.
        request: what goes and what stays.
    """
    work = method.work(request)
    prompts = len(work.prompts)
    rows = prompts * sum(encoder.length for encoder in survey.encoders)
    parameters = sum(tensor.numel for tensor in survey.touched.values())
    touched_bytes = sum(tensor.bytes for tensor in survey.touched.values())
    encoding = sum(2 * e.weights * e.length * prompts for e in survey.encoders)
    reading = touched_bytes + sum(encoder.bytes for encoder in survey.encoders)
    layer = max(6 * encoder.largest for encoder in survey.encoders)
    solving, squares = _solver(survey, work, parameters)
    each = (SOLVE_CUBES * survey.width + REWEIGHING * rows) * survey.width**2
    solving += work.reweightings * each
    copies = 1 + (REWEIGHED_COPIES if work.reweightings else 0)
    dense = 8 * (squares * survey.width**2 + copies * rows * survey.width)
    return WorkPlan(
        tensors=len(survey.touched),
        parameters=parameters,
        share=parameters / survey.denoiser_weights,
        touched_bytes=touched_bytes,
        prompts=prompts,
        encoder_passes=prompts * len(survey.encoders),
        seconds=START_SECONDS
        + encoding / ENCODER_RATE
        + solving / SOLVER_RATE
        + reading / READ_RATE,
        peak_bytes=START_BYTES + touched_bytes + max(layer, dense),
        delta_bytes=_delta_bytes(survey.width, rows),
        copy_bytes=survey.bytes,
    )


def _solver(survey: FolderSurvey, work: Work, parameters: int) -> tuple[float, int]:
    """Gives the operations of the solves, and how many squares of the width are held."""
    if work.rounds is None:
        return float(SOLVE_CUBES * survey.width**3), SOLVE_SQUARES
    root = parameters * survey.width
    cubes = SOLVE_CUBES + ROUND_CUBES * (work.rounds + 1)
    return float(cubes * survey.width**3 + root), ROUND_SQUARES


def _delta_bytes(width: int, rows: int) -> int:
    """Bounds the size of one map of the text side: two float32 factors of full rank at most."""
    header = 1 << 14
    return header + 2 * 4 * width * min(width, rows)
