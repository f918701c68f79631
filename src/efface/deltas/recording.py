"""Times an erasure, collects its curves and writes its provenance."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from efface.concepts import ErasureRequest, described
from efface.contracts import Method, Monitor
from efface.deltas.application import parents_of
from efface.deltas.base_prints import base_prints
from efface.deltas.delta import Delta
from efface.deltas.patches import Patch
from efface.deltas.provenance import Provenance, base_sketch
from efface.deltas.results import ErasureResult
from efface.deltas.row_maps import RowMaps
from efface.hosts.components import components
from efface.memory import peak_resident_bytes
from efface.picture_files import by_content
from efface.randomness import environment

__all__ = ["Recording", "model_name", "model_place", "peak_bytes", "wrapped"]


class Recording:
    """Starts the clock when made; ``step`` once per step, ``result`` at the end."""

    def __init__(
        self, model: Any, *, generator: torch.Generator, monitor: Monitor, steps: int
    ) -> None:
        self._model = model
        self._seed = generator.initial_seed()
        self._monitor = monitor
        self.steps = steps
        """How many there will be at most."""
        self._rows: list[dict[str, float]] = []
        self._start = time.perf_counter()
        if on_gpu(model):
            torch.cuda.reset_peak_memory_stats()

    def step(self, figures: Mapping[str, float]) -> None:
        """Adds one value to every curve and tells the monitor."""
        self._rows.append(dict(figures))
        self._monitor(len(self._rows) - 1, self.steps, figures)

    def resume(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Takes the curves of an interrupted run; the monitor saw those steps when they were done.

        Told of them again, it would look at the weights of the last one each time.
        """
        self._rows += [dict(row) for row in rows]

    def result(
        self,
        method: Method,
        request: ErasureRequest,
        patches: Mapping[str, Patch],
        *,
        diagnostics: Mapping[str, Any],
        row_maps: RowMaps | None = None,
    ) -> ErasureResult:
        """Wraps patches and maps of rows up with everything that says how they came about."""
        ran = environment()
        provenance = Provenance(
            method=method.name,
            revision=method.revision,
            settings=asdict(method),
            request=described(by_content(request)),
            seed=self._seed,
            base_model=model_name(self._model),
            base_sketch=base_sketch(self._model, (*patches, *(row_maps or {}))),
            base_prints=base_prints(self._model),
            versions={**ran.versions, "threads": str(torch.get_num_threads())},
            commit=ran.commit,
            dirty=ran.dirty,
            parents=parents_of(self._model),
        )
        names = list(self._rows[0]) if self._rows else []
        return ErasureResult(
            delta=Delta(
                patches=dict(patches), provenance=provenance, row_maps=dict(row_maps or {})
            ),
            curves={name: tuple(row[name] for row in self._rows) for name in names},
            seconds=time.perf_counter() - self._start,
            peak_bytes=peak_bytes(self._model),
            diagnostics=dict(diagnostics),
        )


def model_place(model: Any) -> str:
    """Says where a model was loaded from: a name, a folder or a hub id; empty if nobody knows."""
    return str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")


def model_name(model: Any) -> str:
    """Names the base: the hub id it was loaded from, or the name of its folder."""
    given = model_place(model)
    if not given:
        return type(model).__name__
    return Path(given).resolve().name if Path(given).exists() else given


def on_gpu(model: Any) -> bool:
    """Says whether any network of the model is on a CUDA device."""
    networks = components(model).values()
    return any(weight.is_cuda for network in networks for weight in network.parameters())


def peak_bytes(model: Any) -> int:
    """Gives the most GPU memory since the start, or else this process's largest resident size."""
    if on_gpu(model):
        return torch.cuda.max_memory_allocated()
    return peak_resident_bytes()


def wrapped(model: Any, delta: Delta, *, since: float) -> ErasureResult:
    """Wraps up a delta that nothing was solved or trained for.

    Args:
        model: what it is for.
        delta: the change.
        since: `time.perf_counter` when work on it began.
    """
    return ErasureResult(
        delta=delta, seconds=time.perf_counter() - since, peak_bytes=peak_bytes(model)
    )
