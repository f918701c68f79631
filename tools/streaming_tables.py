"""Tables of docs/streaming.md: what edits of true-size folders and large encoders take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from readme_tables import between, table

HEAD = (
    "Random weights in float16 folders of the true sizes, {threads} thread(s) on {processors} "
    "shared processors, files dropped from the cache before every command. Wall seconds depend on "
    "what else ran (load: processes that ran or waited); processor seconds do not. "
    "`python -m benchmarks.full_size PLACE` measures it again."
)
ENCODERS = (
    "One pass of a large text encoder, in float32 from float16 files, by three ways (peak above "
    "what importing the libraries takes; `python -m benchmarks.encoders PLACE`):"
)
NAMES = {"sd15": "SD 1.5", "sdxl": "SDXL", "flux": "FLUX.1 (true text side)"}


def page(path: Path, results: Path) -> str:
    """Gives docs/streaming.md with its tables renewed."""
    text = between(path.read_text("utf-8"), "full size", _full_size(results / "full_size.json"))
    return between(text, "encoders", _encoders(results / "encoders.json"))


def _full_size(file: Path) -> str:
    if not file.exists():
        return ""
    found = json.loads(file.read_text("utf-8"))
    rows = [
        [NAMES[name], f"`{_command(cost['command'])}`", *_figures(cost)]
        for name, model in found["models"].items()
        for cost in model["costs"]
    ]
    notes = [
        f"- {NAMES[name]}: {model['folder_bytes'] / 1e9:.1f} GB; {model['weights']}."
        for name, model in found["models"].items()
    ]
    names = ["model", "command", "wall seconds", "processor seconds", "peak memory", "load"]
    return "\n\n".join([HEAD.format(**found["machine"]), table(names, rows), "\n".join(notes)])


def _command(full: str) -> str:
    verb, *words = full.removeprefix("efface ").split()
    return f"{verb} {words[0]}" if verb == "erase" else f"{verb} --in-place-copy"


def _figures(cost: dict[str, Any]) -> list[str]:
    wall, spent = f"{cost['wall_seconds']:.1f}", f"{cost['processor_seconds']:.1f}"
    return [wall, spent, f"{cost['peak_bytes'] / 1e9:.2f} GB", f"{cost['load']:.1f}"]


def _encoders(file: Path) -> str:
    if not file.exists():
        return ""
    found = json.loads(file.read_text("utf-8"))["encoders"]
    rows = [
        [
            title,
            f"{one['prompts']} x {one['tokens']}",
            way,
            f"{cost['processor_seconds']:.1f}",
            f"{cost['peak_bytes_above_imports'] / 1e9:.2f} GB",
        ]
        for title, one in found.items()
        for way, cost in one["ways"].items()
    ]
    names = ["encoder", "prompts x tokens", "way", "processor seconds", "peak memory"]
    return f"{ENCODERS}\n\n{table(names, rows)}"
