"""Methods in turn: where their stages keep state, and one result of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from efface.deltas.composition import compose
from efface.deltas.results import ErasureResult
from efface.errors import BadRequest
from efface.registry import stage_names
from efface.runs.workspace import Workspace
from efface.training.checkpoints import FILE

__all__ = ["run_stages", "stage_workspaces"]


def stage_workspaces(workspace: Workspace, count: int) -> list[Workspace]:
    """Gives each stage a folder; those that left a checkpoint resume, earlier ones run again.

    Raises:
        BadRequest: to resume, one of them must have left a checkpoint.
    """
    if workspace.checkpoint is None:
        return [workspace] * count
    folders = [Path(workspace.checkpoint) / str(number) for number in range(count)]
    left = [(folder / FILE).exists() for folder in folders]
    if workspace.resume and not any(left):
        raise BadRequest(
            f"there is no checkpoint in {workspace.checkpoint} to resume from; start without "
            "--resume"
        )
    return [
        replace(workspace, checkpoint=folder, resume=workspace.resume and there)
        for folder, there in zip(folders, left, strict=True)
    ]


def run_stages(model: Any, stages: Sequence[Callable[[], ErasureResult]]) -> ErasureResult:
    """Runs every stage on the model with the earlier ones applied, and composes their deltas.

    Settings, diagnostics and curves of the result go by the names of the stages.

    Args:
        model: a pipeline; it stays as it was.
        stages: each runs one method.
    """
    results: list[ErasureResult] = []
    with ExitStack() as applied:
        for stage in stages:
            results.append(stage())
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
    evaluations = [result.diagnostics.get("network_evaluations", 0) for result in results]
    return ErasureResult(
        delta=replace(delta, provenance=provenance),
        curves=_curves(named),
        seconds=sum(result.seconds for result in results),
        peak_bytes=max(result.peak_bytes for result in results),
        diagnostics={
            "network_evaluations": sum(evaluations),
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
