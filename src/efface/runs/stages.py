"""Methods in turn: where their stages keep state, and one result of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from efface.concepts import ErasureRequest
from efface.contracts import Eraser
from efface.deltas.composition import compose
from efface.deltas.results import ErasureResult
from efface.errors import BadRequest
from efface.registry import stage_names
from efface.runs.checks import inspect
from efface.runs.gradient_eraser import GradientEraser, require_anchor
from efface.training.checkpoints import FILE

__all__ = ["in_turn", "places"]


def places(
    checkpoint: Path | str | None, count: int, *, resume: bool
) -> list[tuple[Path | None, bool]]:
    """Gives each stage a folder; those that left a checkpoint resume, earlier ones run again.

    Raises:
        BadRequest: to resume, one of them must have left a checkpoint.
    """
    if checkpoint is None:
        return [(None, resume)] * count
    folders = [Path(checkpoint) / str(number) for number in range(count)]
    left = [(folder / FILE).exists() for folder in folders]
    if resume and not any(left):
        raise BadRequest(
            f"there is no checkpoint in {checkpoint} to resume from; start without --resume"
        )
    return [(folder, resume and there) for folder, there in zip(folders, left, strict=True)]


def in_turn(
    model: Any,
    wanted: ErasureRequest,
    stages: Sequence[Eraser[Any]],
    each: Callable[..., ErasureResult],
    held: Sequence[tuple[Path | None, bool]],
) -> ErasureResult:
    """Runs every stage on the model with the earlier ones applied, and composes their deltas.

    Settings, diagnostics and curves of the result go by the names of the stages.

    Args:
        model: a pipeline; it stays as it was.
        wanted: what every stage erases.
        stages: the methods, in their order.
        each: runs one of them, with its ``checkpoint`` and ``resume``.
        held: both of these for each stage, see `places`.

    Raises:
        BadRequest: a stage needs an anchor that the request does not name.
    """
    for stage in stages:
        if isinstance(stage, GradientEraser):
            require_anchor(stage, wanted)
    results: list[ErasureResult] = []
    with ExitStack() as applied:
        for stage, (folder, resume) in zip(stages, held, strict=True):
            results.append(each(method=stage, checkpoint=folder, resume=resume))
            applied.enter_context(results[-1].delta.apply(model))
    methods = [result.delta.provenance.method for result in results]
    named = dict(zip(stage_names(methods), results, strict=True))
    delta = compose([result.delta for result in results])
    provenance = replace(
        delta.provenance,
        method="+".join(methods),
        settings={name: dict(one.delta.provenance.settings) for name, one in named.items()},
        request=results[0].delta.provenance.request,
    )
    delta = replace(delta, provenance=provenance)
    return ErasureResult(
        delta=delta,
        curves=_curves(named),
        seconds=sum(result.seconds for result in results),
        peak_bytes=max(result.peak_bytes for result in results),
        diagnostics={
            **inspect(model, delta, wanted),
            "network_evaluations": sum(
                result.diagnostics.get("network_evaluations", 0) for result in results
            ),
            "stages": {name: dict(one.diagnostics) for name, one in named.items()},
        },
    )


def _curves(named: Mapping[str, ErasureResult]) -> dict[str, tuple[float, ...]]:
    """Puts the curves of all stages side by side, as in ``"esd: erase"``."""
    return {
        f"{stage}: {figure}": values
        for stage, result in named.items()
        for figure, values in result.curves.items()
    }
