"""Compares ways to run a large text encoder on the CPU, each in a process of its own.

    python -m benchmarks.encoders PLACE

``streamed`` is `efface.hosts.encoders.StreamedEncoder`; ``offloaded`` is transformers'
``from_pretrained(device_map={"": "disk"})``; ``loaded`` holds the whole encoder in float32, and is
left out for T5, which would need 19 GB. The folders (float16, random weights, true sizes) are made
under PLACE and deleted. Writes ``benchmarks/results/encoders.json``: seconds and processor seconds
of one pass, and the peak of the process above what importing the libraries takes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "encoders.json"
ENCODERS = {
    "OpenCLIP bigG (SDXL)": ("sdxl", ("streamed", "offloaded", "loaded"), (5, 77)),
    "T5-XXL (FLUX.1, 24 layers)": ("flux", ("streamed", "offloaded"), (2, 64)),
}
"""The layout whose ``text_encoder_2`` it is, the ways to compare, and prompts times tokens."""


def main() -> None:
    """Makes each encoder's folder and runs every way on it."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m benchmarks.encoders PLACE")
    place = Path(sys.argv[1])
    found = {}
    for title, (layout, ways, (prompts, tokens)) in ENCODERS.items():
        folder = place / f"{layout}-encoder"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            _child("make", layout, str(folder))
            rows = {way: _child(way, layout, str(folder), prompts, tokens) for way in ways}
            found[title] = {"prompts": prompts, "tokens": tokens, "ways": rows}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    content = {
        "command": "python -m benchmarks.encoders PLACE",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "encoders": found,
    }
    RESULTS.write_text(json.dumps(content, indent=2) + "\n")


def _child(*words: object) -> Any:
    command = [sys.executable, "-m", "benchmarks.encoders", "--child", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    sys.stdout.write(f"{words}: {done.stdout}")
    return json.loads(done.stdout or "null")


def _make(layout: str, folder: Path) -> None:
    import torch

    from benchmarks.full_size_folders import LAYOUTS, write_network

    part = LAYOUTS[layout].parts["text_encoder_2"]
    write_network(folder, part, part.config, torch.Generator().manual_seed(0))


def _run(way: str, layout: str, folder: Path, prompts: int, tokens: int) -> None:
    import torch
    import transformers

    from benchmarks.full_size_folders import LAYOUTS
    from efface.hosts.encoders import StreamedEncoder

    kind = LAYOUTS[layout].parts["text_encoder_2"].kind
    made: Any = getattr(transformers, kind)
    before = _peak()
    if way == "streamed":
        encoder: Any = StreamedEncoder(folder, kind)
    else:
        disk = {"device_map": {"": "disk"}, "offload_folder": str(folder / "offload")}
        options: dict[str, Any] = disk if way == "offloaded" else {}
        encoder = made.from_pretrained(folder, dtype=torch.float32, **options).eval()
    ids = torch.randint(500, (prompts, tokens), generator=torch.Generator().manual_seed(0))
    start, spent = time.perf_counter(), time.process_time()
    with torch.no_grad():
        states = encoder(ids)[0]
    figures = {
        "seconds": round(time.perf_counter() - start, 2),
        "processor_seconds": round(time.process_time() - spent, 2),
        "peak_bytes_above_imports": _peak() - before,
        "norm_of_the_result": float(states.double().norm()),
    }
    sys.stdout.write(json.dumps(figures))


def _peak() -> int:
    """Gives the largest resident size of this process so far, on Linux."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    if sys.argv[1:3] == ["--child", "make"]:
        _make(sys.argv[3], Path(sys.argv[4]))
    elif sys.argv[1:2] == ["--child"]:
        _run(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
    else:
        main()
