"""Measures somebody's delta file or method as those of the leaderboard were, and writes its rows.

    python -m benchmarks submit FILE [--name NAME]
    python -m benchmarks submit METHOD [--name NAME] [--seed N] [--concepts pistol frog]
                                       [--attacks [soft_prompt ...]]

A file is a delta for the bundled model that erases one concept; it is measured on that one. A
method is one that `efface list methods` names, those of other packages among them; it erases the
eight nouns on which methods that train are measured. `--attacks` brings the pistol back by the
named attacks, or by all. Rows go to benchmarks/results/leaderboard/NAME; `python
tools/write_docs.py` puts them on docs/leaderboard.md. `--size short` is for trying: a smaller suite
draws other pictures, and its rows are not shown.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import efface
from benchmarks.concepts import TRAINED_NOUNS
from benchmarks.erasure import Bench, summary, write
from efface.bundled import understood
from efface.bundled.suites import emoji_suite
from efface.concepts import ErasureRequest
from efface.deltas.delta import Delta
from efface.errors import BadRequest
from efface.files import write_atomically
from efface.registry import list_methods

RESULTS = Path(__file__).parent / "results" / "leaderboard"
ATTACKED = "pistol"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,59}")


def run(words: Sequence[str], results: Path = RESULTS) -> None:
    """Measures what the words name.

    Raises:
        BadRequest: it is neither a file nor a method, or its name cannot be a folder's.
    """
    asked = _asked(words)
    path = Path(asked.what)
    known = all(stage in list_methods() for stage in asked.what.split("+"))
    if not path.is_file() and not known:
        raise BadRequest(
            f"'{asked.what}' is neither a file nor a method; give the path of a delta file, or one "
            f"of {', '.join(list_methods())}"
        )
    name = asked.name or (path.parent.name if path.is_file() else asked.what)
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"'{name}' cannot name a row; give --name with letters, digits, '.', '_', '+' and '-'"
        )
    folder = results / name
    if path.is_file():
        _file(path, folder, asked)
        return
    for concept in asked.concepts:
        _method(concept, folder, asked)
    if asked.attacks is not None:
        attacked(asked.what, folder, asked.attacks)


def request_of(delta: Delta) -> ErasureRequest:
    """Gives the request of a delta that erases one concept and steers it nowhere.

    Raises:
        BadRequest: it does not say what it erases, or erases several, or was given an anchor.
    """
    told = (delta.provenance.request or {}).get("erasures", ())
    if len(told) != 1 or told[0].get("anchor"):
        names = [one["concept"]["name"] for one in told]
        raise BadRequest(
            f"the delta says that it erases {names or 'nothing'}; the leaderboard compares deltas "
            "that erase one object and were given no anchor"
        )
    return understood(efface.request(told[0]["concept"]["name"]))


def attacked(method: str, folder: Path, attacks: Sequence[str]) -> None:
    """Attacks a method's erased pistol as the robustness matrix does, and writes the cells."""
    from benchmarks.robustness import _hear, _row
    from efface.evaluation.executors import Workers
    from efface.evaluation.jobs import Plan
    from efface.evaluation.matrix import run_plan
    from efface.registry import entries

    names = tuple(attacks) or tuple(entry.name for entry in entries("attacks"))
    plan = Plan(methods=(method,), attacks=names, concepts=(ATTACKED,))
    workers = Workers(executor="processes", count=2)
    plain = run_plan(plan, str(Path("runs") / "robustness"), workers, _hear).plain()
    rows = {"plan": plain["plan"], "cells": [_row(cell) for cell in plain["cells"]]}
    write_atomically(folder / "attacks.json", (json.dumps(rows, indent=1) + "\n").encode())


def _asked(words: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser(prog="python -m benchmarks submit", allow_abbrev=False)
    parser.add_argument("what", metavar="FILE|METHOD")
    parser.add_argument("--name", help="what the row is called")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concepts", nargs="+", default=list(TRAINED_NOUNS), metavar="NOUN")
    parser.add_argument("--attacks", nargs="*", metavar="ATTACK")
    parser.add_argument("--size", choices=("benchmark", "short"), default="benchmark")
    return parser.parse_args(list(words))


def _file(path: Path, folder: Path, asked: Any) -> None:
    delta = Delta.load(path)
    request = request_of(delta)
    found = Bench().measured(delta, emoji_suite(request, size=asked.size))
    _write(folder, found, {}, asked)


def _method(concept: str, folder: Path, asked: Any) -> None:
    bench = Bench()
    request = understood(efface.request(concept))
    made = efface.erase(bench.pipe, request, method=asked.what, seed=asked.seed)
    found = bench.measured(made.delta, emoji_suite(request, size=asked.size))
    _write(folder, found, {"erase_seconds": made.seconds}, asked)


def _write(folder: Path, found: Any, more: dict[str, Any], asked: Any) -> None:
    place = f"{found.erased[0].replace(' ', '_')}-{asked.seed}.json"
    command = f"python -m benchmarks submit {Path(asked.what).name}"
    write(folder / place, found, {**more, "submitted": folder.name, "command": command})
    print(f"{folder.name} {found.erased[0]:12} {found.verdict:12} {summary(found)}", flush=True)
