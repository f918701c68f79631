"""What a map of text rows costs at Stable Diffusion 1.5's width, from 10 to 1,000 concepts.

    python -m benchmarks row_map              writes benchmarks/results/row_map.json
    python -m benchmarks.row_map 100          prints one measurement as JSON

Rows of the true size (768 values, 77 rows a prompt) are drawn, as in `benchmarks.closed_form`, so
that no text encoder is timed; its seconds per prompt are measured apart, on a CLIP-L of the true
size with random weights, and `KernelMap` encodes most prompts twice: for centers and for sums. Each
concept has one wording, 100 concepts are kept, and nothing is written into company. The whole of
`KernelMap.solve` runs, with its default number of centers, in a process of its own with two
threads. Seconds are those of the wall clock, with the processor's beside them: where these are
less than the former, other work had its part of the cores. What has a result is not run again.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.closed_form import LENGTH, SIZES, DrawnEncoder, names, per_prompt
from benchmarks.processes import took
from efface.concepts import Concept, Erasure, ErasureRequest
from efface.files import write_atomically
from efface.hosts.embedding import Embedder
from efface.hosts.toys import tiny_tokenizer
from efface.methods.kernel_map import KernelMap

RESULTS = Path(__file__).parent / "results" / "row_map.json"
CONCEPTS = (10, 100, 1000)
KEPT = 100
THREADS = 2


def concepts(count: int, first: str) -> list[Concept]:
    """Concepts of made-up names, in one wording."""
    return [Concept(name=name, prompts=(name,)) for name in names(count, first)]


def most() -> int:
    """Gives the most bytes of this process; what it was started from is not in it, as in rusage."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    (line,) = (one for one in lines if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measured(count: int) -> dict[str, Any]:
    """Solves once, and maps two prompts' rows as a denoiser's pass does."""
    encoder = DrawnEncoder(SIZES[0].width)
    model = SimpleNamespace(tokenizer=tiny_tokenizer(length=LENGTH), text_encoder=encoder)
    request = ErasureRequest(
        erasures=tuple(Erasure(concept=one) for one in concepts(count, "x")),
        keep=tuple(concepts(KEPT, "y")),
    )
    method, before = KernelMap(company=0), most()
    wall, processor = time.perf_counter(), time.process_time()
    found = method.solve(Embedder(model), request, torch.Generator().manual_seed(0))
    row: dict[str, Any] = {
        "concepts": count,
        "centers": len(found.map.centers),
        "seconds": round(time.perf_counter() - wall, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "loaded_bytes": before,
        "peak_bytes": most(),
        **{name: float(f"{value:.3g}") for name, value in found.figures.items()},
    }
    rows = torch.randn(2, LENGTH, found.map.centers.shape[1])
    single = type(found.map)(*(tensor.float() for tensor in vars(found.map).values()))
    wall = time.perf_counter()
    for _ in range(10):
        single.of(rows)
    return row | {"seconds_a_pass": round((time.perf_counter() - wall) / 10, 4)}


def run() -> None:
    """Measures what has no result yet."""
    record: dict[str, Any] = {"command": "python -m benchmarks row_map", "rows": []}
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text())
    if "encoding" not in record:
        spent = per_prompt(SIZES[0])
        told = {"seconds": spent.wall, "processor_seconds": spent.processor}
        record["encoding"] = {name: round(value, 4) for name, value in told.items()}
    for count in CONCEPTS:
        if all(row["concepts"] != count for row in record["rows"]):
            record["rows"].append(took("benchmarks.row_map", str(count), threads=THREADS))
            record["rows"].sort(key=lambda row: int(row["concepts"]))
            print(f"{count} concepts done", flush=True)
            write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    print(json.dumps(measured(int(sys.argv[1]))))
