"""Runs a sample of committed results again and compares every number.

    python -m benchmarks --check [ROWS] [SEED]     20 results, drawn evenly over all methods

Writes nothing but results/check.json, when all are compared, and exits 1 where a number differs by
more than one picture (rates) or by more than 2 % (means): processors round differently, and a
picture on the edge of the threshold of the judge may fall to the other side. How many numbers are
equal is printed. An interrupted check goes on where it was: what it found so far is in
results/check.partial.json, and counts as long as neither the package nor the committed result is
another one.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import efface
from benchmarks.erasure import Bench, slim
from efface.bundled import understood
from efface.bundled.suites import emoji_suite
from efface.files import write_atomically

RESULTS = Path(__file__).parent / "results"
MODELS = {"erasure": "emoji", "training": "emoji", "implicit": "emoji-reader"}
"""Experiments of one erasure a result, with their models."""
PARTIAL = "check.partial.json"
"""Rows of a check that was interrupted, by a hash of the package and of the committed result."""
MEAN_TOLERANCE = 0.02
"""Relative difference of a mean that still counts as the same number."""


def sampled(count: int, seed: int) -> list[Path]:
    """Draws results, one method of one experiment after another until there are enough."""
    chance = random.Random(seed)
    folders = sorted(each for name in MODELS for each in (RESULTS / name).iterdir())
    lists = [sorted(folder.glob("*.json")) for folder in folders]
    for each in (*lists, lists):
        chance.shuffle(each)
    longest = max(map(len, lists))
    turns = [each[turn] for turn in range(longest) for each in lists if turn < len(each)]
    return turns[:count]


def rerun(path: Path, benches: dict[str, Bench]) -> dict[str, Any]:
    """Erases and measures again what a result says, by today's presets."""
    record = json.loads(path.read_text("utf-8"))
    experiment, method = path.parts[-3], path.parts[-2]
    bench = benches.setdefault(MODELS[experiment], Bench(MODELS[experiment]))
    (erasure,) = record["provenance"]["request"]["erasures"]
    anchor = erasure["anchor"]
    request = understood(efface.request(erasure["concept"]["name"], anchor=anchor))
    seed = int(path.stem.rpartition("-")[2]) if experiment == "training" else 0
    result = efface.erase(bench.pipe, request, method=method, seed=seed)
    size = "implicit" if experiment == "implicit" else "benchmark"
    return slim(bench.measured(result.delta, emoji_suite(request, size=size)))


def numbers(record: Mapping[str, Any]) -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """Lists every estimate of a result with what it is of."""
    for row in record["measurements"]:
        for side in ("before", "after"):
            if row[side] is not None:
                yield (row["metric"], row["role"], row["concept"], side), row[side]


def same(was: Mapping[str, Any], found: Mapping[str, Any] | None) -> bool:
    """Says whether a number was reproduced."""
    if found is None or was["count"] != found["count"]:
        return False
    if was["hits"] is not None:
        return abs(was["hits"] - found["hits"]) <= 1
    return math.isclose(was["value"], found["value"], rel_tol=MEAN_TOLERANCE, abs_tol=1e-4)


def compared(path: Path, benches: dict[str, Bench]) -> dict[str, Any]:
    """Says how many of a result's numbers are reproduced, and which are not."""
    was = dict(numbers(json.loads(path.read_text("utf-8"))))
    found = dict(numbers(rerun(path, benches)))
    differing = [key for key, value in was.items() if not same(value, found.get(key))]
    equal = sum(value == found.get(key) for key, value in was.items())
    name = str(path.relative_to(RESULTS))
    return {"result": name, "numbers": len(was), "equal": equal, "differing": differing}


def package_digest() -> bytes:
    """Hashes every file of the package, of which any may decide a number."""
    root, digest = Path(efface.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(root)).encode() + hashed(path.read_bytes()))
    return digest.digest()


def hashed(told: bytes) -> bytes:
    """Gives a SHA-256."""
    return hashlib.sha256(told).digest()


def run(arguments: list[str]) -> int:
    """Compares, one line of output a result; gives 1 if a number is another one."""
    count, seed = (int(each) for each in [*arguments, *("20", "0")[len(arguments) :]])
    torch.set_num_threads(1)
    benches: dict[str, Bench] = {}
    partial, package, rows = RESULTS / PARTIAL, package_digest(), []
    known = json.loads(partial.read_text("utf-8")) if partial.exists() else {}
    for path in sampled(count, seed):
        of = hashed(package + hashed(path.read_bytes())).hex()
        if of not in known:
            known[of] = compared(path, benches)
            write_atomically(partial, (json.dumps(known, indent=1) + "\n").encode())
        row = known[of]
        rows.append(row)
        told = f"{row['equal']:4} of {row['numbers']:4} equal, {len(row['differing'])} differ"
        print(f"{row['result']:56} {told}", flush=True)
    record = {"command": "python -m benchmarks --check", "seed": seed, "rows": rows}
    write_atomically(RESULTS / "check.json", (json.dumps(record, indent=1) + "\n").encode())
    partial.unlink(missing_ok=True)
    return int(any(row["differing"] for row in rows))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
