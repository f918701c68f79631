"""Erases 1 to 50 of the 64 nouns at once: what is left of them, what becomes of the others.

    python -m benchmarks mass     writes benchmarks/results/mass.json and mass.png

First a sweep: every candidate erases 25 nouns. Per method the one is taken with the smallest sum
of what is left of the erased nouns and what the others lose, in shares of pictures. The curve then
uses it for every number of nouns. Sweep and curve draw other pictures (other seeds). Results of
candidates are kept, and curves of the settings that are chosen; delete the file to measure anew.

Then more is asked of 25 and 50 nouns, and of one: synonyms, and a kept noun beside an erased one
in one picture, by ``kernel_map`` and by the setting of uce that was chosen. Every number has its
paired change: the same prompts and seeds before and after. Settings of ``kernel_map`` are compared
on 25 nouns and on other seeds; the one is taken that leaves and costs least in all: of the erased,
their synonyms, the others, and the kept partners. Last, emoji-reader, which knows descriptions, is
asked for the erased nouns by these.

The bundled model keeps every noun plain and once in every style, in one of three templates.
Candidates with a ``"keep set"``, which is no setting of a method, keep it in all three.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import efface
from benchmarks.erasure import PICTURES
from benchmarks.mass_suites import described_suite, suite, wider_suite
from benchmarks.presets import WITHOUT
from efface.bundled import understood
from efface.bundled.judge import EmojiJudge
from efface.bundled.vocabulary import NOUNS, STYLES, prompt
from efface.bundled.wordings import EDIT_PLAIN, EDIT_STYLED
from efface.concepts import Concept, ErasureRequest
from efface.contracts import Suite
from efface.errors import MeasurementFailed
from efface.evaluation.images import ImageStore
from efface.files import write_atomically
from efface.registry import build

RESULTS = Path(__file__).parent / "results" / "mass.json"
FIGURE = RESULTS.with_suffix(".png")
WIDER = (25, 50, 1)
COUNTS = (1, 5, 10, 25, 50)
SWEPT = 25
ORDER = [list(NOUNS)[(17 * place) % len(NOUNS)] for place in range(len(NOUNS))]
"""The nouns in an order that mixes the categories; 17 and 64 have no common divisor."""

CANDIDATES: dict[str, tuple[dict[str, Any], ...]] = {
    "uce": (
        {},
        *(
            WITHOUT | {"keep_scale": keep, "ridge": ridge}
            for keep, ridge in ((1.0, 1e-3), (3.0, 1e-3), (10.0, 1e-3), (3.0, 1e-4), (10.0, 1e-4))
        ),
        *(
            WITHOUT | {"keep_scale": 1.0, "ridge": 1e-4, "null_space": share}
            for share in (1e-4, 1e-3, 1e-2)
        ),
        *(
            WITHOUT
            | {"keep_scale": 2.2, "ridge": 1e-4, "reweightings": 8, "reach": 1.6}
            | {"unanchored": "nearest", "enough": enough}
            for enough in (1.2, 1.25, 1.3, 1.4, 1.5)
        ),
        *(
            WITHOUT
            | {"keep_scale": 2.2, "ridge": 1e-4, "reweightings": 8, "reach": 1.6}
            | {"unanchored": "nearest", "enough": enough, "keep set": "every wording"}
            for enough in (1.2, 1.3)
        ),
        *(
            WITHOUT
            | {"keep_scale": 2.2, "ridge": 1e-4, "reweightings": 8, "reach": 2.0}
            | {"unanchored": "nearest", "enough": enough}
            for enough in (1.25, 1.3)
        ),
    ),
    "rece": tuple(
        WITHOUT
        | {"rows": "erased", "strength_unit": "relative", "strength": 0.1, "hold": 1.0}
        | {"rounds": 1, "first_keep_scale": keep, "keep_scale": keep}
        | {"ridge": 1e-3, "first_ridge": 1e-3}
        for keep in (3.0, 10.0)
    ),
    "trce": tuple(
        {"concept_weight": 1.0, "padding_weight": 1.0, "keep_weight": keep, "ridge": 1e-4}
        for keep in (1.0, 3.0, 10.0)
    ),
    "realera": tuple(
        {"target": "prompt_without_concept", "ridge": 1e-4, "near_weight": 0.1}
        | {"keep_weight": keep}
        for keep in (1.0, 3.0, 10.0)
    ),
}

KERNEL_MAPS: tuple[dict[str, Any], ...] = (
    {},
    {"company": 24},
    {"length_scale": 0.5},
    {"company": 24, "length_scale": 0.5},
    {"company": 24, "keep_scale": 10.0},
    {"company": 24, "sampling": "farthest"},
    {"company": 24, "centers": 4000},
)


def in_every_wording(keep: tuple[Concept, ...]) -> tuple[Concept, ...]:
    """Keeps nouns in all styles and templates."""
    styled = [(text, style.wording) for text in EDIT_STYLED for style in STYLES.values()]
    return tuple(
        replace(
            one,
            prompts=(
                *(prompt(text, one.name) for text in EDIT_PLAIN),
                *(prompt(text, one.name, style=style) for text, style in styled),
            ),
        )
        for one in keep
    )


SIDES = (
    ("erased", "presence", "erased"),
    ("remaining", "presence", "kept"),
    ("remaining styles", "style_presence", "kept"),
)
MORE_SIDES = (
    ("synonyms", "presence", "synonym"),
    ("kept partners", "presence", "general"),
    ("erased beside them", "presence", "paraphrase"),
)
SIDES_OF: dict[Callable[[ErasureRequest, int], Suite], tuple[tuple[str, str, str], ...]] = {
    suite: SIDES,
    wider_suite: (*SIDES, *MORE_SIDES),
    described_suite: (*SIDES, ("described", "presence", "paraphrase")),
}


class Bench:
    """The model, the judge and the store of pictures that all points share."""

    def __init__(self, model: str = "emoji") -> None:
        self.pipe, self.judge = efface.load(model), EmojiJudge()
        self.pipe.set_progress_bar_config(disable=True)
        self.store = ImageStore(PICTURES, batch_size=64)

    def point(
        self,
        method: str,
        settings: dict[str, Any],
        count: int,
        first_seed: int,
        asked: Callable[[ErasureRequest, int], Suite] = suite,
    ) -> dict[str, Any]:
        """Erases the first ``count`` nouns and measures both sides."""
        request = understood(efface.request(ORDER[:count]))
        own = {name: value for name, value in settings.items() if name != "keep set"}
        if own != settings:
            request = replace(request, keep=in_every_wording(request.keep))
        row: dict[str, Any] = {"method": method, "settings": settings, "erased_nouns": count}
        try:
            result = efface.erase(self.pipe, request, method=build("methods", method, **own))
        except MeasurementFailed as error:
            return row | {"failed": str(error)}
        found = efface.evaluate(
            self.pipe, result.delta, asked(request, first_seed), self.judge, store=self.store
        )
        row |= {"seconds": result.seconds, "verdict": found.verdict}
        for name, metric, role in SIDES_OF[asked]:
            one = found.find(metric, role)  # type: ignore[arg-type]
            if one is not None and one.before is not None and one.after is not None:
                row[name] = {"before": asdict(one.before), "after": asdict(one.after)}
                if asked is not suite and one.change is not None:
                    row[name] |= {"change": asdict(one.change), "p_value": one.p_value}
        print(f"{method:6} {count:2} nouns  {told(row)}  {settings}", flush=True)
        return row


def told(row: dict[str, Any]) -> str:
    """All rates in one line."""
    if "failed" in row:
        return str(row["failed"])
    sides = (
        f"{name} {row[name]['before']['value']:.3f}->{row[name]['after']['value']:.3f}"
        for name, *_ in (*SIDES, *MORE_SIDES)
        if name in row
    )
    return ", ".join(sides)


def chosen(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Applies the rule of this module's docstring."""

    def harm(row: dict[str, Any]) -> float:
        side = row["remaining"]
        lost = float(side["before"]["value"] - side["after"]["value"])
        return float(row["erased"]["after"]["value"]) + max(lost, 0.0)

    return dict(min((row for row in rows if "failed" not in row), key=harm)["settings"])


def run() -> None:
    """Measures what the result file does not hold yet."""
    record: dict[str, Any] = {"command": "python -m benchmarks mass", "sweep": {}, "curve": {}}
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text())
    bench = Bench()
    for method, candidates in CANDIDATES.items():
        rows = record["sweep"].get(method, {}).get("rows", [])
        for settings in candidates:
            if all(row["settings"] != settings for row in rows):
                rows.append(bench.point(method, settings, SWEPT, 500))
                record["sweep"][method] = {"rows": rows, "chosen": chosen(rows)}
                save(record)
        best = record["sweep"][method]["chosen"]
        if [row["settings"] for row in record["curve"].get(method, [])] != [best] * len(COUNTS):
            record["curve"][method] = [bench.point(method, best, n, 900) for n in COUNTS]
            save(record)
    wider(bench, record)
    draw(record)


def least_harm(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Applies the rule for maps of this module's docstring."""

    def harm(row: dict[str, Any]) -> float:
        left = sum(row[name]["after"]["value"] for name in ("erased", "synonyms"))
        lost = (-row[name]["change"]["value"] for name in ("remaining", "kept partners"))
        return float(left + sum(max(each, 0.0) for each in lost))

    return dict(min((row for row in rows if "failed" not in row), key=harm)["settings"])


def wider(bench: Bench, record: dict[str, Any]) -> None:
    """Measures what is asked beyond the curve, where the record does not hold it yet."""
    swept = record["sweep"].setdefault("kernel_map", {"rows": []})
    for settings in KERNEL_MAPS:
        if all(row["settings"] != settings for row in swept["rows"]):
            swept["rows"].append(bench.point("kernel_map", settings, SWEPT, 500, wider_suite))
            swept["chosen"] = least_harm(swept["rows"])
            save(record)
    for method, count in product(("kernel_map", "uce"), WIDER):
        settings = record["sweep"][method]["chosen"]
        rows = record.setdefault("wider", {}).setdefault(method, [])
        if all((row["settings"], row["erased_nouns"]) != (settings, count) for row in rows):
            rows.append(bench.point(method, settings, count, 300, wider_suite))
            save(record)
    reader: Bench | None = None
    for method in ("kernel_map", "uce"):
        settings = record["sweep"][method]["chosen"]
        rows = record.setdefault("described", {}).setdefault(method, [])
        if all(row["settings"] != settings for row in rows):
            reader = reader or Bench("emoji-reader")
            rows.append(reader.point(method, settings, SWEPT, 300, described_suite))
            save(record)


def save(record: dict[str, Any]) -> None:
    """Writes the results so far."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())


def draw(record: dict[str, Any]) -> None:
    """Plots both sides against the number of nouns, with intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    for axes, side in zip(figure.subplots(1, 2, sharey=True), ("erased", "remaining"), strict=True):
        for number, (method, rows) in enumerate(record["curve"].items()):
            rows = [row for row in rows if side in row]
            for time, style in (("before", ":"), ("after", "-")):
                cells = [row[side][time] for row in rows]
                values = [100 * cell["value"] for cell in cells]
                bars = [
                    [100 * (cell["value"] - cell["low"]) for cell in cells],
                    [100 * (cell["high"] - cell["value"]) for cell in cells],
                ]
                places = [row["erased_nouns"] * (1 + 0.03 * number) for row in rows]
                axes.errorbar(
                    places,
                    values,
                    yerr=bars if time == "after" else None,
                    linestyle=style,
                    marker="o" if time == "after" else "",
                    color=f"C{number}",
                    label=f"{method}, {time}",
                    capsize=2,
                )
        axes.set_xscale("log")
        axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
        axes.set_xlabel("nouns erased at once, of 64")
        axes.set_title(f"{side} nouns")
    figure.axes[0].set_ylabel("present, % of pictures")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(FIGURE, dpi=150)
