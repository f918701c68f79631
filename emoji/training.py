"""The loop the build scripts share: schedule by step, moving average, log, resume.

A step draws everything from a generator seeded with (seed, step), so an interrupted run continues
exactly.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Warm-up, flat, then linear decay to ``floor`` of the peak rate."""

    steps: int
    peak: float
    warmup: int = 200
    flat: float = 0.6
    floor: float = 0.03

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        start = self.flat * self.steps
        if step < start:
            return self.peak
        left = max(0.0, 1 - (step - start) / max(1.0, self.steps - start))
        return self.peak * (self.floor + (1 - self.floor) * left)


def step_generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


Network = TypeVar("Network", bound=nn.Module)


def train(  # noqa: PLR0913 - one loop, everything said at the call
    model: Network,
    loss: Callable[[torch.Generator], tuple[Tensor, Mapping[str, float]]],
    *,
    folder: Path,
    schedule: Schedule,
    seed: int,
    averaging: float = 0.999,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.99),
    every: int = 100,
    until: int | None = None,
) -> Network:
    """Trains in place, resuming from a checkpoint in ``folder``, and returns the average.

    Stops early at step ``until`` if given. Writes ``checkpoint.pt`` (model, average, optimiser,
    step) and one line of ``log.jsonl`` every ``every`` steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.peak, weight_decay=weight_decay, betas=betas, fused=True
    )
    average = copy.deepcopy(model).eval()
    average.requires_grad_(requires_grad=False)
    first = _resume(folder, model, average, optimizer)
    began, sums = time.perf_counter(), dict[str, float]()
    last = schedule.steps if until is None else until
    for step in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        value, parts = loss(step_generator(seed, step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        keep = min(averaging, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
        for name, part in {"loss": float(value), **parts}.items():
            sums[name] = sums.get(name, 0.0) + part
        if (step + 1) % every == 0 or step + 1 == last:
            _log(folder, step + 1, sums, time.perf_counter() - began, math.gcd(every, step + 1))
            _save(folder, model, average, optimizer, step + 1)
            began, sums = time.perf_counter(), {}
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)
    return average


def _log(folder: Path, step: int, sums: Mapping[str, float], seconds: float, count: int) -> None:
    row = {"step": step, "seconds": round(seconds, 1)}
    row |= {name: round(total / count, 5) for name, total in sums.items()}
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def _save(
    folder: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int
) -> None:
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
    temporary = folder / "checkpoint.tmp"
    torch.save(state, temporary)
    temporary.replace(folder / "checkpoint.pt")


def _resume(
    folder: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
