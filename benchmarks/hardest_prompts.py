"""The ten of 100 prompts that are hardest to erase: do they stay present more than random ones?

    python -m benchmarks hardest_prompts     writes benchmarks/results/hardest/prompts.json and .png

Candidates are nouns in styles of the bundled model, of mixed categories. The lower level is a
method with the bundled model's preset; a candidate's loss is how far the denoising error of its
pictures rises when it is erased. Sets: those that `worst_case` and `crossfit` find, the easiest,
and random ones. Each set is erased from the unedited model, ten prompts at once; its prompts are
drawn with wordings and seeds that neither search nor erasure saw, and the bundled judge says
whether the noun is in the picture. Rows that the file holds are kept; delete them to measure anew.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import efface
from efface.bundled.judge import EmojiJudge
from efface.bundled.pairs import pairs, request_for
from efface.bundled.suites import GUIDANCE, STEPS
from efface.bundled.vocabulary import NOUNS, concept
from efface.contracts import Estimate, ForgetSetSearch, Sample
from efface.deltas.delta import Delta
from efface.evaluation.drawing import draw
from efface.files import write_atomically
from efface.metrics.estimates import rate
from efface.randomness import derive
from efface.registry import build
from efface.selection.prompts import PromptCandidates, PromptPictures, draw_latents

RESULTS = Path(__file__).parent / "results" / "hardest" / "prompts.json"
FIGURE = RESULTS.with_suffix(".png")
CANDIDATES, SIZE, RANDOM_SETS = 100, 10, 5
PICTURES_A_PROMPT = 4
FIRST_SEED = 700
SEARCHED = {"steps": 15, "guidance": GUIDANCE}
TIMES = (100, 300, 500, 700, 900)
SEARCHES: dict[str, ForgetSetSearch] = {
    "hardest, worst_case": build("searches", "worst_case", rounds=8),
    "hardest, crossfit": build("searches", "crossfit", folds=0),
    "easiest, worst_case": build("searches", "worst_case", rounds=8, easiest=True),
    "easiest, crossfit": build("searches", "crossfit", folds=0, easiest=True),
}
IN_SECONDS = ("hardest, worst_case", "hardest, crossfit", "easiest, worst_case")
IN_MINUTES = ("hardest, crossfit", "easiest, crossfit")
"""The direct search, both ways: every part is erased once for the two of them."""
METHODS = {"uce": IN_SECONDS, "rece": IN_SECONDS, "esd": IN_MINUTES}
"""Methods with the searches over them, by what an erasure takes."""


class Remembered:
    """Candidates whose erasures are deterministic, so that no set is erased twice."""

    weighs = False

    def __init__(self, inner: PromptCandidates) -> None:
        self.inner, self.names = inner, inner.names
        self.erasures = 0
        self._known: dict[bytes, torch.Tensor] = {}
        self._now: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.inner)

    @contextmanager
    def erased(
        self, weights: torch.Tensor, *, generator: torch.Generator, start: Any = None
    ) -> Iterator[Any]:
        """See `efface.contracts.Candidates`."""
        key = weights.numpy().tobytes()
        if key not in self._known:
            self.erasures += 1
            with self.inner.erased(weights, generator=generator, start=start):
                self._known[key] = self.inner.losses()
        self._now = self._known[key]
        yield None

    def losses(self) -> torch.Tensor:
        """See `efface.contracts.Candidates`."""
        assert self._now is not None
        return self._now


class Bench:
    """The model, the judge and the candidates, with pictures of the unedited model drawn once."""

    def __init__(self) -> None:
        self.pipe, self.judge = efface.load("emoji"), EmojiJudge()
        self.pipe.set_progress_bar_config(disable=True)
        self.pairs = pairs(CANDIDATES)
        self._before: dict[int, list[float]] = {}
        self._deltas: dict[tuple[str, tuple[int, ...]], Delta] = {}
        self._pictures: PromptPictures | None = None

    def candidates(self, method: str) -> Remembered:
        """Gives the candidates with a method as their lower level."""
        names = [pair.name for pair in self.pairs]
        if self._pictures is None:
            self._pictures = draw_latents(self.pipe, names, (0, 1), **SEARCHED)  # type: ignore[arg-type]
        eraser = build("methods", method, preset="emoji")
        return Remembered(
            PromptCandidates(
                self.pipe,
                names,
                self._pictures,
                eraser,
                lambda chosen: request_for([self.pairs[place] for place in chosen]),
                times=TIMES,
                generator=derive(0, "hardest prompts", "noise"),
            )
        )

    def before(self, chosen: Sequence[int]) -> list[float]:
        """Gives hits of the unedited model, picture by picture."""
        missing = [place for place in chosen if place not in self._before]
        for place, hits in zip(missing, self._hits(missing), strict=True):
            self._before[place] = hits
        return [hit for place in chosen for hit in self._before[place]]

    def after(self, method: str, chosen: Sequence[int]) -> list[float]:
        """Erases a set, and gives hits picture by picture."""
        with self._erased(method, chosen).apply(self.pipe):
            return [hit for hits in self._hits(chosen) for hit in hits]

    def elsewhere(self, method: str, chosen: Sequence[int]) -> float:
        """Erases a set, and gives how often its nouns are seen where they were not asked for.

        A control of the judge: for each prompt, the share of pictures of the set's other nouns in
        which it sees this prompt's noun. What is left of erased prompts looks like some nouns.
        """
        with self._erased(method, chosen).apply(self.pipe):
            seen = self._seen(chosen)
        places = [list(NOUNS).index(self.pairs[place].noun) for place in chosen]
        owners = torch.tensor(places).repeat_interleave(PICTURES_A_PROMPT)
        shares = [seen[owners != place, place].double().mean() for place in places]
        return float(torch.stack(shares).mean())

    def _erased(self, method: str, chosen: Sequence[int]) -> Delta:
        known = (method, tuple(chosen))
        if known not in self._deltas:
            eraser = build("methods", method, preset="emoji")
            request = request_for([self.pairs[place] for place in chosen])
            generator = derive(0, "hardest prompts")
            self._deltas[known] = eraser.erase(self.pipe, request, generator=generator).delta
        return self._deltas[known]

    def _hits(self, chosen: Sequence[int]) -> list[list[float]]:
        if not chosen:
            return []
        seen = self._seen(chosen).unflatten(0, (len(chosen), PICTURES_A_PROMPT)).double()
        names = list(NOUNS)
        owned = zip(chosen, seen, strict=True)
        return [own[:, names.index(self.pairs[place].noun)].tolist() for place, own in owned]

    def _seen(self, chosen: Sequence[int]) -> torch.Tensor:
        """Draws the prompts of a set, and gives which nouns the judge sees in each picture."""
        samples = [
            Sample(pair.evaluated(number), FIRST_SEED + number, "erased", concept(pair.noun))
            for pair in (self.pairs[place] for place in chosen)
            for number in range(PICTURES_A_PROMPT)
        ]
        found = []
        for start in range(0, len(samples), 32):
            some = samples[start : start + 32]
            pixels = torch.from_numpy(draw(self.pipe, some, steps=STEPS, guidance=GUIDANCE).pixels)
            nouns, _ = self.judge.probabilities(pixels.permute(0, 3, 1, 2).float() / 255)
            found.append(nouns >= self.judge.card.threshold)
        return torch.cat(found)


def run() -> None:
    """Searches and measures what the result file does not hold yet."""
    record = read()
    bench = Bench()
    for method, searches in METHODS.items():
        held = record["methods"].setdefault(method, {"sets": {}})
        if any(name not in held["sets"] for name in searches):
            search(bench, method, held, record)
        for number in range(RANDOM_SETS):
            order = torch.randperm(CANDIDATES, generator=derive(number, "random prompts"))
            held["sets"].setdefault(f"random {number}", {"chosen": order[:SIZE].tolist()})
        for name, row in held["sets"].items():
            if "after" not in row:
                measure(bench, method, row)
                print(f"{method} {name}: {told(row)}", flush=True)
                save(record)
            if "seen elsewhere" not in row:
                row["seen elsewhere"] = bench.elsewhere(method, row["chosen"])
                print(f"{method} {name}: elsewhere {row['seen elsewhere']:.3f}", flush=True)
                save(record)
        held["summary"] = summary(held["sets"])
        save(record)
    draw_figure(record)


def summary(sets: dict[str, Any]) -> dict[str, Any]:
    """Compares each found set with all random ones together.

    The interval of a difference is Newcombe's for independent rates, from intervals that know that
    pictures of one prompt are alike.
    """
    random = _rate([row for name, row in sets.items() if name.startswith("random")])
    found: dict[str, Any] = {"random": asdict(random)}
    for name, row in sets.items():
        if not name.startswith("random"):
            own = _rate([row])
            below = math.hypot(own.value - own.low, random.high - random.value)
            above = math.hypot(own.high - own.value, random.value - random.low)
            more = own.value - random.value
            found[name] = {"more than random": more, "low": more - below, "high": more + above}
    return found


def _rate(rows: Sequence[dict[str, Any]]) -> Estimate:
    """Gives how often sets are present after erasing, by the hits of their prompts."""
    hits, owners = [], []
    for number, row in enumerate(rows):
        for place, count in enumerate(row["hits after"]):
            hits += [1.0] * count + [0.0] * (PICTURES_A_PROMPT - count)
            owners += [(number, place)] * PICTURES_A_PROMPT
    return rate(hits, owners)


def read() -> dict[str, Any]:
    """Reads what was measured before."""
    if RESULTS.exists():
        return dict(json.loads(RESULTS.read_text()))
    shown = [pair.name for pair in pairs(CANDIDATES)]
    return {"command": "python -m benchmarks hardest_prompts", "prompts": shown, "methods": {}}


def search(bench: Bench, method: str, held: dict[str, Any], record: dict[str, Any]) -> None:
    """Runs all searches of a method."""
    candidates = bench.candidates(method)
    held["rise of the error"] = {}
    for name in METHODS[method]:
        one = SEARCHES[name]
        started, before = time.perf_counter(), candidates.erasures
        found = one.search(
            candidates,
            SIZE,
            generator=derive(0, "hardest prompts", "search"),
            monitor=lambda step, total, figures: print(method, step, total, figures, flush=True),
        )
        held["sets"][name] = {
            "chosen": found.chosen.tolist(),
            "names": [candidates.names[place] for place in found.chosen.tolist()],
            "rounds": len(found.rounds),
            "stable": found.stable,
            "overlaps": [each.overlap for each in found.rounds],
            "new erasures": candidates.erasures - before,
            "seconds": time.perf_counter() - started,
        }
        held["rise of the error"][name] = [float(f"{value:.4g}") for value in found.losses.tolist()]
        print(method, name, held["sets"][name], flush=True)
        save(record)


def measure(bench: Bench, method: str, row: dict[str, Any]) -> None:
    """Fills in what the judge sees before and after the set is erased."""
    chosen = row["chosen"]
    before, after = bench.before(chosen), bench.after(method, chosen)
    owners = [place for place in chosen for _ in range(PICTURES_A_PROMPT)]
    row["hits after"] = [
        int(sum(hit for hit, owner in zip(after, owners, strict=True) if owner == place))
        for place in chosen
    ]
    row["before"] = asdict(rate(before, owners))
    row["after"] = asdict(rate(after, owners))


def told(row: dict[str, Any]) -> str:
    """Both rates in one line."""
    return ", ".join(
        f"{name} {row[name]['value']:.3f} ({row[name]['low']:.3f} to {row[name]['high']:.3f})"
        for name in ("before", "after")
    )


def save(record: dict[str, Any]) -> None:
    """Writes the results so far."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS, (json.dumps(record) + "\n").encode())


def draw_figure(record: dict[str, Any]) -> None:
    """Plots how often each set's nouns are still there, with intervals."""
    from matplotlib.figure import Figure

    methods = record["methods"]
    held_by = [name for held in methods.values() for name in held["sets"]]
    lines = [name for name in SEARCHES if name in held_by]
    lines += sorted({*held_by} - {*lines})
    figure = Figure(figsize=(5 * len(methods), 3.6), layout="constrained")
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for axes, (method, held) in zip(panels, methods.items(), strict=True):
        for name, row in held["sets"].items():
            place = lines.index(name)
            cell = row["after"]
            low, high = cell["value"] - cell["low"], cell["high"] - cell["value"]
            colour = "C3" if "hardest" in name else "C2" if "easiest" in name else "C7"
            axes.errorbar(
                100 * cell["value"], place, xerr=[[100 * low], [100 * high]], fmt="o", color=colour
            )
            axes.plot(100 * row["before"]["value"], place, "|", color="black")
        axes.set_yticks(range(len(lines)), lines)
        axes.set_xlim(0, 102)
        axes.set_title(method)
        axes.set_xlabel("noun still present, % (bar: before erasing)")
    panels[0].invert_yaxis()
    figure.savefig(FIGURE, dpi=150)
