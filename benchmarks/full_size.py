"""Times edits of models of the true sizes, each in a process of its own, and takes their memory.

    python -m benchmarks.full_size PLACE [sd15] [sdxl] [flux]

Makes the folders of `benchmarks.full_size_folders` under PLACE one after the other (up to 25 GB
with the edited copy), runs `efface erase uce`, `efface erase rece` and `efface apply
--in-place-copy` on each, deletes it, and writes ``benchmarks/results/full_size.json``. Files are
dropped from the system's cache before every command, so reading them from the disk is included.

Wall seconds depend on what else the machine does; processor seconds (of all threads) do not.
This process imports nothing heavy: the peak that Linux reports for a child includes its parent's.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "full_size.json"
BARS = {"sd15": (10.0, 1.5e9), "sdxl": (60.0, 4e9), "flux": (None, 6e9)}
"""Wall seconds and peak bytes that an erasure should stay under."""
NOTES = {
    "sd15": "all networks in true size",
    "sdxl": "all networks in true size",
    "flux": "true widths; both text encoders in full depth (T5: 24 layers of width 4096); "
    "2 of 19 double and 2 of 38 single blocks, which no edit reads",
}
METHODS = ("uce", "rece")
CONCEPT = "pistol"


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    command: str
    wall_seconds: float
    processor_seconds: float
    peak_bytes: int
    load: float
    """Processes that ran or waited for a processor, this one included; mean of a minute."""


def measured(arguments: list[str], shown: str) -> Cost:
    """Runs ``efface`` with arguments in a process of its own."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "efface.cli.main", *arguments], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"failed: efface {shown}")
    spent = usage.ru_utime + usage.ru_stime
    peak, load = usage.ru_maxrss * 1024, round(os.getloadavg()[0], 1)
    return Cost(f"efface {shown}", round(wall, 2), round(spent, 2), peak, load)


def measure(name: str, place: Path) -> dict[str, object]:
    """Makes a folder, measures every command on it, and deletes it."""
    model, run, copy = (place / part for part in (name, f"{name}-run", f"{name}-copy"))
    for folder in (model, run, copy):
        shutil.rmtree(folder, ignore_errors=True)
    maker = [sys.executable, "-m", "benchmarks.full_size_folders", name, str(model)]
    subprocess.run(maker, check=True)
    costs = []
    try:
        for method in METHODS:
            erase = ["erase", method, "--concept", CONCEPT, "--overwrite"]
            forget_cached(model)
            placed = ["--model", str(model), "--out", str(run)]
            costs.append(measured([*erase, *placed], f"erase {method} --model {name.upper()} ..."))
        forget_cached(model)
        apply = ["apply", str(run), "--model", str(model), "--in-place-copy", str(copy)]
        shown = f"apply RUN --model {name.upper()} --in-place-copy OUT"
        costs.append(measured(apply, shown))
        seconds, peak = BARS[name]
        return {
            "weights": NOTES[name],
            "folder_bytes": sum(f.stat().st_size for f in model.rglob("*") if f.is_file()),
            "bar_for_erase": {"wall_seconds": seconds, "peak_bytes": peak},
            "costs": [asdict(cost) for cost in costs],
        }
    finally:
        for folder in (model, run, copy):
            shutil.rmtree(folder, ignore_errors=True)


def forget_cached(folder: Path) -> None:
    """Drops a folder's files from the system's cache, where that is possible."""
    os.sync()
    for file in folder.rglob("*"):
        if file.is_file() and hasattr(os, "posix_fadvise"):
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def main() -> None:
    """Measures the layouts named on the command line, or all, and keeps the others' results."""
    if len(sys.argv) < 2 or not set(sys.argv[2:]) <= set(BARS):
        raise SystemExit(f"usage: python -m benchmarks.full_size PLACE [{'] ['.join(BARS)}]")
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"models": {}}
    for name in sys.argv[2:] or list(BARS):
        found["command"] = "python -m benchmarks.full_size PLACE"
        found["machine"] = {
            "processors": os.cpu_count(),
            "architecture": platform.machine(),
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        }
        found["models"][name] = measure(name, place)
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")
        for cost in found["models"][name]["costs"]:
            sys.stdout.write(f"{cost}\n")


if __name__ == "__main__":
    main()
