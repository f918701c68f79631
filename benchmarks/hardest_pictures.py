"""A tenth of 10,000 pictures of Fashion-MNIST: hardest, easiest and random, by every baseline.

    python -m benchmarks hardest_pictures     writes results/hardest/pictures.json and .png

Needs the pictures as Debian has them: apt-get install dataset-fashion-mnist. A small ViT learns
10,000 training pictures. `crossfit` (two folds, which train on half of them each: one retraining)
and `worst_case` (signs of gradients below) find the hardest tenth, `crossfit` with the reverse sign
the easiest; five random tenths stand beside them. For each set the model is retrained without it by
the recipe of the original, and every registered method that forgets pictures forgets it, with its
preset for small models. The gap is the mean distance to the retrained model's accuracy on the
forgotten, the retained and 2,000 test pictures. Rows that the file holds are kept.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from efface import registry
from efface.contracts import ForgetSetSearch
from efface.data.idx import idx_files
from efface.data.pictures import LabelledPictures, Part
from efface.errors import EffaceError, MissingInput
from efface.evaluation.answers import Answers
from efface.files import write_atomically
from efface.hosts.classifier import Classifier
from efface.hosts.vision import VisionModel, labels_of
from efface.hosts.vision_toys import Resized
from efface.metrics.estimates import mean
from efface.randomness import derive
from efface.selection.lower import ByMethod, Retraining, SignDescent
from efface.selection.pictures import PictureCandidates

RESULTS = Path(__file__).parent / "results" / "hardest" / "pictures.json"
FIGURE = RESULTS.with_suffix(".png")
FOLDER = Path("/usr/share/datasets/fashion-mnist")
COUNT, SIZE, TESTED, RANDOM_SETS = 10_000, 1_000, 2_000, 5
RECIPE = Retraining(rate=3e-3, epochs=6.0, batch=128)
SIGNS = SignDescent(rate=1e-4, epochs=1.0, batch=256)
SEARCHES: dict[str, tuple[ForgetSetSearch, Any]] = {
    "hardest, crossfit": (registry.build("searches", "crossfit"), RECIPE),
    "easiest, crossfit": (registry.build("searches", "crossfit", easiest=True), RECIPE),
    "hardest, worst_case": (registry.build("searches", "worst_case", rounds=6), SIGNS),
}
NETWORK: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 28,
    "patch_size": 7,
}


PUBLISHED = {"selective_dampening": "paper"}
"""Presets of methods whose own for small models is for whole classes."""


def baselines() -> dict[str, Any]:
    """Builds every method that forgets pictures, with its preset for small models if it fits."""
    found = {}
    for name in registry.list_methods():
        method = registry.load("methods", name)
        if "classifier" in method.families and name != "retrain":
            usual = "icons" if "icons" in method.presets() else None
            preset = PUBLISHED.get(name, usual)
            found[name] = registry.build("methods", name, preset=preset)
    return found


class Bench:
    """The pictures, and the model that learnt them."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        every = idx_files(FOLDER)
        order = torch.randperm(len(every), generator=derive(0, "fashion", "pictures"))
        self.pictures: LabelledPictures = Part(every, order[:COUNT].sort().values)
        self.tested: LabelledPictures = Part(idx_files(FOLDER, "test"), torch.arange(TESTED))
        self.host = self._learnt()

    def _learnt(self) -> Classifier:
        """Trains a small ViT on the pictures by the recipe."""
        from transformers import ViTConfig, ViTForImageClassification

        names = dict(enumerate(self.pictures.names))
        config = ViTConfig(**NETWORK, id2label=names, label2id={v: k for k, v in names.items()})
        with torch.random.fork_rng(devices=[]):
            network = ViTForImageClassification(config).eval()
        host = Classifier(VisionModel(network, Resized(28), labels_of(config)))
        generator = derive(self.seed, "fashion", "original")
        nothing = torch.zeros(COUNT, dtype=torch.float64)
        with RECIPE.erased(host, self.pictures, nothing, generator=generator, start=None):
            learnt = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(learnt)
        return host

    def accuracies(self, chosen: list[int]) -> dict[str, float]:
        """Gives shares that are recognised, of the set, of the rest and of test pictures."""
        asked = (self.answers(self.pictures), self.answers(self.tested))
        right = torch.cat([each.predictions == each.labels for each in asked])
        inside = torch.zeros(COUNT, dtype=torch.bool)
        inside[chosen] = True
        own = right[:COUNT]
        parts = {"forgotten": own[inside], "retained": own[~inside], "test": right[COUNT:]}
        return {name: round(float(part.double().mean()), 5) for name, part in parts.items()}

    @torch.no_grad()
    def answers(self, pictures: LabelledPictures) -> Answers:
        """Asks the model, as it is now, for its logits of all of some pictures."""
        every = torch.arange(len(pictures)).split(500)
        read = (self.host.model.prepared(pictures.read(some.tolist())) for some in every)
        return Answers(torch.cat([self.host.logits(pixels) for pixels in read]), pictures.labels)


def run() -> None:
    """Searches and measures what the result file does not hold yet."""
    if not FOLDER.is_dir():
        raise MissingInput(f"{FOLDER} is not there; run: apt-get install dataset-fashion-mnist")
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    record.setdefault("command", "python -m benchmarks hardest_pictures")
    sets = record.setdefault("sets", {})
    bench = Bench()
    record.setdefault("original", bench.accuracies([]) | {"forgotten": None})
    for name in SEARCHES:
        if name not in sets:
            sets[name] = search(bench, name)
            save(record)
    for number in range(RANDOM_SETS):
        order = torch.randperm(COUNT, generator=derive(number, "random pictures"))
        sets.setdefault(f"random {number}", {"chosen": order[:SIZE].sort().values.tolist()})
    for name, row in sets.items():
        measure(bench, name, row, record)
        record["summary"] = summary(sets)
        save(record)
        draw(record)


def search(bench: Bench, name: str) -> dict[str, Any]:
    """Runs one search."""
    one, lower = SEARCHES[name]
    candidates = PictureCandidates(bench.host.model, bench.pictures, lower)
    started = time.perf_counter()
    found = one.search(
        candidates,
        SIZE,
        generator=derive(0, "hardest pictures"),
        monitor=lambda *told: print(name, *told, flush=True),
    )
    return {
        "chosen": found.chosen.tolist(),
        "seconds": round(time.perf_counter() - started, 1),
        "overlaps": [round(each.overlap, 4) for each in found.rounds],
        "stable": found.stable,
    }


def measure(bench: Bench, name: str, row: dict[str, Any], record: dict[str, Any]) -> None:
    """Retrains without a set, and lets every baseline forget it."""
    removed = torch.zeros(COUNT, dtype=torch.float64)
    removed[row["chosen"]] = 1
    lowers = {"retrain": RECIPE} | {each: ByMethod(one) for each, one in baselines().items()}
    done = row.setdefault("methods", {})
    for method, lower in lowers.items():
        if method in done:
            continue
        started, draws = time.perf_counter(), derive(0, "hardest pictures", method)
        try:
            with lower.erased(bench.host, bench.pictures, removed, generator=draws, start=None):
                done[method] = bench.accuracies(row["chosen"])
        except EffaceError as error:
            done[method] = {"failed": str(error)}
        done[method]["seconds"] = round(time.perf_counter() - started, 1)
        print(name, method, done[method], flush=True)
        save(record)


def gap(methods: dict[str, Any], method: str) -> float:
    """Gives the mean distance of three accuracies to those of the retrained model."""
    kinds = ("forgotten", "retained", "test")
    return sum(abs(methods[method][kind] - methods["retrain"][kind]) for kind in kinds) / 3


def summary(sets: dict[str, Any]) -> dict[str, Any]:
    """Compares found sets with random ones: forgetting by retraining, and each method's gap."""
    measured = {name: row["methods"] for name, row in sets.items() if row.get("methods")}
    random = [methods for name, methods in measured.items() if name.startswith("random")]
    found: dict[str, Any] = {}
    for name, methods in measured.items():
        if name.startswith("random") or not random:
            continue
        own: dict[str, Any] = {}
        for method, cell in methods.items():
            if "failed" in cell or any("failed" in each[method] for each in random):
                continue
            forgotten = mean([each[method]["forgotten"] for each in random])
            own[method] = {"forgotten": cell["forgotten"], "random": _told(forgotten)}
            if method != "retrain":
                own[method]["gap"] = round(gap(methods, method), 5)
                own[method]["gap of random"] = _told(mean([gap(each, method) for each in random]))
                more = [gap(methods, method) - gap(each, method) for each in random]
                own[method]["gap more than random"] = _told(mean(more))
        found[name] = own
    return found


def _told(estimate: Any) -> list[float]:
    return [round(value, 5) for value in (estimate.value, estimate.low, estimate.high)]


def save(record: dict[str, Any]) -> None:
    """Writes the results so far."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS, (json.dumps(record) + "\n").encode())


def draw(record: dict[str, Any]) -> None:
    """Plots how much of each set is still recognised after each method."""
    from matplotlib.figure import Figure

    sets = {name: row for name, row in record["sets"].items() if row.get("methods")}
    methods = list(baselines() | {"retrain": None})
    figure = Figure(figsize=(8, 0.4 * len(methods) + 1.2), layout="constrained")
    axes = figure.subplots()
    colours = {"hardest, crossfit": "C3", "hardest, worst_case": "C1", "easiest, crossfit": "C2"}
    for name, row in sets.items():
        cells = [row["methods"].get(method, {}) for method in methods]
        values = [100 * cell.get("forgotten", float("nan")) for cell in cells]
        label = name if name in colours or name == "random 0" else None
        colour = colours.get(name, "C7")
        axes.plot(values, range(len(methods)), "o", color=colour, label=label, alpha=0.7)
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_xlabel("forgotten pictures that are still recognised, %")
    axes.legend(fontsize=8)
    figure.savefig(FIGURE, dpi=150)
