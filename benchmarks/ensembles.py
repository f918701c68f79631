"""Is a model that forgot pictures like one that never saw them? Ensembles of Fashion-MNIST.

    python -m benchmarks ensembles     writes benchmarks/results/ensembles.json

Needs the pictures as Debian has them: apt-get install dataset-fashion-mnist. A small ViT learns
10,000 training pictures from three seeds; every registered method that forgets pictures forgets one
random tenth of them from each, with two seeds. Beside them stand twelve models retrained without
that tenth, of which six are the reference and six a row of their own: what no difference looks
like. A row says how far accuracies on forgotten, retained and held-out pictures are from the
reference's (`gaps`, intervals over seeds), how far the distributions of logit margins are (KLoM, on
forgotten and on held-out pictures), how well the two kinds of models are told apart (U-LiRA on
forgotten pictures), and where the spread of accuracies on the two halves of the held-out pictures
comes from: trainings, unlearnings or evaluations. What has a row is not measured again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from typing import Any

import torch

from benchmarks.hardest_pictures import (
    COUNT,
    FOLDER,
    RECIPE,
    RESULTS,
    SIZE,
    TESTED,
    Bench,
    baselines,
)
from efface.contracts import Estimate
from efface.errors import EffaceError, MissingInput
from efface.evaluation.answers import Answers
from efface.evaluation.membership import u_lira
from efface.evaluation.retraining import gaps, klom, mean_klom
from efface.evaluation.variance import variance_shares
from efface.files import write_atomically
from efface.randomness import derive
from efface.selection.lower import ByMethod

__all__ = ["run"]

WRITTEN = RESULTS.parents[1] / "ensembles.json"
TRAININGS, UNLEARNINGS, RETRAININGS = 3, 2, 6
PARTS = ("forgotten", "retained", "test")


def run() -> None:
    """Measures what the file does not hold yet."""
    if not FOLDER.is_dir():
        raise MissingInput(f"{FOLDER} is not there; run: apt-get install dataset-fashion-mnist")
    torch.set_num_threads(1)
    rows = json.loads(WRITTEN.read_text())["rows"] if WRITTEN.exists() else {}
    reference = None
    for name in ("retrain", *baselines()):
        if name in rows:
            continue
        reference = reference or [*_retrained(0)]
        began = time.perf_counter()
        try:
            found = [*_retrained(RETRAININGS)] if name == "retrain" else [*_unlearned(name)]
            rows[name] = _row(found, reference, nested=name != "retrain")
        except EffaceError as error:
            rows[name] = {"failed": str(error)}
        rows[name]["seconds"] = round(time.perf_counter() - began, 1)
        print(name, json.dumps(rows[name]), flush=True)
        record = {"command": "python -m benchmarks ensembles", "rows": rows}
        write_atomically(WRITTEN, (json.dumps(record, indent=1) + "\n").encode())


def removed() -> torch.Tensor:
    """Gives 1 for each picture of the forgotten tenth, 0 for the others."""
    order = torch.randperm(COUNT, generator=derive(0, "ensembles", "forgotten"))
    weights = torch.zeros(COUNT, dtype=torch.float64)
    weights[order[:SIZE]] = 1
    return weights


@cache
def bench(seed: int) -> Bench:
    """Gives the model that learnt from one seed."""
    return Bench(seed)


def _retrained(first: int) -> Iterator[dict[str, Answers]]:
    """Retrains without the forgotten tenth, from one seed after another."""
    one = bench(0)
    for seed in range(first, first + RETRAININGS):
        draws = derive(seed, "ensembles", "retrained")
        with RECIPE.erased(one.host, one.pictures, removed(), generator=draws, start=None):
            yield _asked(one)


def _unlearned(name: str) -> Iterator[dict[str, Answers]]:
    """Forgets from every training with every seed; all unlearnings of one training in turn."""
    for training in range(TRAININGS):
        one = bench(training)
        for seed in range(UNLEARNINGS):
            draws = derive(seed, "ensembles", name, str(training))
            lower = ByMethod(baselines()[name])
            with lower.erased(one.host, one.pictures, removed(), generator=draws, start=None):
                yield _asked(one)


def _asked(one: Bench) -> dict[str, Answers]:
    learnt, gone = one.answers(one.pictures), removed() > 0
    found = {"forgotten": learnt.where(gone), "retained": learnt.where(~gone)}
    return found | {"test": one.answers(one.tested)}


def _row(
    found: list[dict[str, Answers]], reference: list[dict[str, Answers]], *, nested: bool
) -> dict[str, Any]:
    own, theirs = _accuracies(found), _accuracies(reference)
    apart = gaps(own, theirs, generator=derive(0, "ensembles"))
    row: dict[str, Any] = {
        "accuracy": {part: _rounded(sum(own[part]) / len(found)) for part in PARTS},
        "difference": {part: _told(apart.by_metric[part].difference) for part in PARTS},
        "average gap": _told(apart.average),
    }
    for part in ("forgotten", "test"):
        row[f"klom, {part}"] = _told(
            mean_klom(klom(_margins(found, part), _margins(reference, part)))
        )
    attack = u_lira(_margins(found, "forgotten"), _margins(reference, "forgotten"))
    row["u_lira auc"] = _told(attack.auc)
    row["u_lira true positives at 1 %"] = _told(attack.true_positives)
    if nested:
        halves = [
            [sum(part.hits) / len(part.hits) for part in _halves(one["test"])] for one in found
        ]
        table = torch.tensor(halves, dtype=torch.float64)
        shares = variance_shares(table.unflatten(0, (TRAININGS, UNLEARNINGS)))
        row["variance shares"] = {name: _rounded(one) for name, one in shares.shares.items()}
        row["variance clipped"] = list(shares.clipped)
    return row


def _accuracies(models: list[dict[str, Answers]]) -> dict[str, list[float]]:
    return {part: [sum(one[part].hits) / len(one[part].hits) for one in models] for part in PARTS}


def _margins(models: list[dict[str, Answers]], part: str) -> torch.Tensor:
    return torch.stack([one[part].margins for one in models])


def _halves(answers: Answers) -> tuple[Answers, Answers]:
    first = torch.arange(TESTED) < TESTED // 2
    return answers.where(first), answers.where(~first)


def _told(estimate: Estimate) -> list[float]:
    return [_rounded(value) for value in list(asdict(estimate).values())[:3]]


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
