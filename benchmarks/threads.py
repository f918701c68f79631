"""Which operations give other bits with another number of threads.

    python -m benchmarks threads

Every operation of a short erasure on the bundled model, forward and backward, is done twice with
the same numbers: by two threads and by one. The run goes on with what one thread gave, so that no
operation is blamed for another's difference.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import efface
from efface import registry
from efface.bundled import understood
from efface.files import write_atomically

RESULT = Path(__file__).parent / "results" / "threads.json"
METHOD = "spm"
SHORT = {"steps": 1, "trajectories": 1, "sampling_steps": 1, "batch": 2, "keep_trajectories": 1}
WITHOUT_RESULT = ("empty", "new_empty", "rand", "normal", "uniform")
"""Beginnings of operations that give memory as it is, or draw."""


class Twice(TorchDispatchMode):
    """Does every operation with two threads and with one, and counts those that differ."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.differing: Counter[str] = Counter()
        self.largest: defaultdict[str, float] = defaultdict(float)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        name, named = func.overloadpacket.__name__, dict(kwargs or {})
        if func._schema.is_mutable or name.startswith(WITHOUT_RESULT):
            return func(*args, **named)
        torch.set_num_threads(2)
        both = func(*args, **named)
        torch.set_num_threads(1)
        alone = func(*args, **named)
        apart = max(distances(alone, both), default=0.0)
        self.calls[name] += 1
        self.differing[name] += int(apart > 0)
        self.largest[name] = max(self.largest[name], apart)
        return alone


def distances(first: Any, second: Any) -> Iterator[float]:
    """Gives how far results are apart, by the largest value of each tensor."""
    for one, other in zip(tree_leaves(first), tree_leaves(second), strict=True):
        if isinstance(one, Tensor) and one.is_floating_point() and one.numel():
            apart = (one - other).abs().max()
            yield float(apart / one.abs().max().clamp(min=1e-30))


def run() -> None:
    """Writes how many calls of which operations differ."""
    pipe = efface.load("emoji")
    method = replace(registry.load("methods", METHOD).presets()["emoji"], **SHORT)
    torch.set_num_threads(1)
    with Twice() as twice:
        method.erase(
            pipe,
            understood(efface.request("pistol")),
            generator=torch.Generator().manual_seed(0),
        )
    differing = {
        name: {"calls": twice.calls[name], "differing": count, "largest": twice.largest[name]}
        for name, count in sorted(twice.differing.items())
        if count
    }
    equal = sum(twice.calls.values()) - sum(each["calls"] for each in differing.values())
    for name, row in differing.items():
        told = f"{row['differing']:5} of {row['calls']:5} differ, by up to {row['largest']:.1e}"
        print(f"{name:32} {told}", flush=True)
    print(f"{equal} calls of other operations are equal to the bit")
    record = {
        "command": "python -m benchmarks threads",
        "method": METHOD,
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "operations": differing,
        "others_equal": equal,
    }
    write_atomically(RESULT, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    run()
