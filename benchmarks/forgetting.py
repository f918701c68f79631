"""Requests in turn on the bundled recognisers, and every baseline beside one of them.

    python -m benchmarks forgetting     writes benchmarks/results/forgetting.json

``chains``: GS-LoRA and GS-LoRA++ on four requests of 8 classes of icons-vit and of 20 individuals
of icons-identities, each on top of the ones before, with few pictures a class and with classes of
which training saw none; these two also with answers that are held (``distil``) or held low
(``suppress``). ``baselines``: every other method on the first request of icons-vit, with
the gap to retraining. ``revoked``: the chain without its second request. Accuracies are of held-out
views. What has a row is not measured again; delete the file to measure anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

import efface
from efface import registry
from efface.bundled.icons import pictures
from efface.concepts import Concept, ErasureRequest, request
from efface.data.pictures import LabelledPictures, without_classes
from efface.deltas.composition import without
from efface.deltas.delta import Delta
from efface.errors import EffaceError
from efface.files import write_atomically
from efface.hosts.vision import VisionModel
from efface.hosts.vision_families import vision_host
from efface.runs.erasing import erase

__all__ = ["BASELINES", "CHAINS", "Bench", "measure", "run"]

RESULTS = Path(__file__).parent / "results" / "forgetting.json"
REQUESTS = 4
SIZES = {"icons-vit": 8, "icons-identities": 20}
VIEWS = 2
SETTINGS = {"icons-identities": {"gs_lora": {"forget_weight": 1.0, "steps": 150}}}
"""What the model's own preset has beside that of its kind, whose variants are measured here."""
MISSING = 5
"""Kept classes of which training sees nothing, in the setting of that name."""
COMPETING: dict[str, Any] = {"unseen": "compete"}
"""As in the paper: kept classes without pictures are pushed away by what is retained."""
HELD: dict[str, Any] = {"distil": 4.0, "distil_erased": True, "distil_mixed": True}
CHAINS: dict[str, tuple[str, dict[str, Any]]] = {
    "gs_lora": ("", {}),
    "gs_lora_plus": ("-plus", {}),
    "gs_lora few": ("", {"shots": 4}),
    "gs_lora_plus few": ("-plus", {"shots": 4}),
    "gs_lora missing": ("", COMPETING),
    "gs_lora_plus missing": ("-plus", COMPETING),
    "gs_lora_plus few, suppressed": ("-plus", {"shots": 4, "suppress": 1.0}),
    "gs_lora_plus few, suppressed more and held": ("-few", {"shots": 4}),
    "gs_lora_plus missing, held more and suppressed": ("-plus", HELD | {"suppress": 1.0}),
}
"""Presets and settings, of both models."""
TRIED: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "icons-vit": {
        "gs_lora_plus missing, distilled": ("-plus", COMPETING | {"distil": 1.0}),
        "gs_lora_plus missing, distilled mixtures": (
            "-plus",
            COMPETING | {"distil": 1.0, "distil_mixed": True},
        ),
        "gs_lora_plus few, distilled": ("-plus", {"shots": 4, "distil": 1.0}),
        "gs_lora_plus few, distilled mixtures": (
            "-plus",
            {"shots": 4, "distil": 1.0, "distil_mixed": True},
        ),
        "gs_lora_plus missing, held": ("-plus", {"distil": 1.0, "distil_erased": True}),
        "gs_lora_plus missing, held more": ("-plus", HELD),
        "gs_lora_plus missing, suppressed alone and held": (
            "-plus",
            HELD | {"suppress": 10.0, "forget_weight": 0.0, "prototype_forget": 0.0},
        ),
    },
    "icons-identities": {
        "gs_lora_plus missing, distilled": ("-plus", COMPETING | {"distil": 1.0}),
        "gs_lora_plus few, suppressed and held": (
            "-plus",
            {"shots": 4, "suppress": 1.0, "distil": 1.0, "distil_mixed": True},
        ),
        "gs_lora_plus few, suppressed and held more": (
            "-plus",
            HELD | {"shots": 4, "suppress": 1.0},
        ),
    },
}
"""What else was tried where pictures are few or missing."""
BASELINES = (
    "retrain",
    "fine_tune",
    "gradient_ascent",
    "random_labels",
    "random_labels -salun",
    "boundary_shrink",
    "boundary_expand",
    "l1_sparse",
    "scrub",
    "bad_teacher",
    "last_layers",
    "selective_dampening",
    "influence",
)


class Bench:
    """A model, its held-out pictures, and the order in which classes are forgotten.

    Args:
        name: of the model, in the rows.
        model: recognises pictures.
        train: what it was trained on, numbered as its head is.
        test: held-out pictures.
        size: classes of each request.
        settings: of methods, where they are others than the bundled models' presets have.
    """

    def __init__(
        self,
        name: str,
        model: VisionModel,
        *,
        train: LabelledPictures,
        test: LabelledPictures,
        size: int,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.name, self.model, self.train, self.size = name, model, train, size
        self.settings = settings or {}
        parts = [test.read(range(n, min(n + 256, len(test)))) for n in range(0, len(test), 256)]
        self.pixels = torch.cat([model.prepared(part) for part in parts])
        self.labels = test.labels
        shuffled = torch.Generator().manual_seed(1337)
        self.order = torch.randperm(len(model.labels), generator=shuffled).tolist()
        self.right = self.recognised()

    @classmethod
    def bundled(cls, name: str) -> Bench:
        """Opens a bundled model with its own pictures."""
        test = pictures(name, "test", views=VIEWS)
        train = pictures(name, "train")
        model, own = efface.load(name), SETTINGS.get(name, {})
        return cls(name, model, train=train, test=test, size=SIZES[name], settings=own)

    def recognised(self) -> Bool[Tensor, " n"]:
        """Says which held-out pictures get their true name now."""
        host: Any = vision_host(self.model)
        with torch.no_grad():
            answers = [host.logits(part).argmax(1) for part in self.pixels.split(256)]
        return torch.cat(answers) == self.labels

    def classes(self, turn: int) -> list[int]:
        """Lists the classes of one request."""
        return self.order[turn * self.size : (turn + 1) * self.size]

    def request(self, turn: int, *, missing: bool = False) -> ErasureRequest:
        """Asks for one request's classes to be forgotten."""
        concepts = [Concept(name=self.model.labels[n], kind="class") for n in self.classes(turn)]
        asked = request(concepts, kind="class")
        data = without_classes(self.train, self.order[-MISSING:]) if missing else self.train
        return ErasureRequest(erasures=asked.erasures, retain_data=data)

    def accuracies(self, turn: int, *, missing: bool = False) -> dict[str, Any]:
        """Gives hits and pictures by role, after so many requests, and before any."""
        now = self.recognised()
        own = self.classes(turn)
        earlier = [n for each in range(turn) for n in self.classes(each)]
        unseen = self.order[-MISSING:] if missing else []
        kept = [n for n in range(len(self.order)) if n not in {*own, *earlier, *unseen}]
        roles = {"erased": own, "earlier": earlier, "kept": kept, "missing": unseen}
        return {
            role: self.counts(torch.isin(self.labels, torch.tensor(numbers)), now)
            for role, numbers in roles.items()
            if numbers
        }

    def counts(self, among: Bool[Tensor, " n"], now: Bool[Tensor, " n"]) -> list[int]:
        """Counts pictures recognised before, recognised now, and all."""
        return [int(self.right[among].sum()), int(now[among].sum()), int(among.sum())]


def chained(bench: Bench, name: str) -> Iterator[dict[str, Any]]:
    """Makes the requests in turn and measures after each."""
    ending, settings = (CHAINS | TRIED.get(bench.name, {}))[name]
    preset = f"icons{ending}"
    settings = {**bench.settings.get("gs_lora", {}), **settings}
    missing = "missing" in name
    deltas: list[Delta] = []
    with ExitStack() as applied:
        for turn in range(REQUESTS):
            began = time.process_time()
            asked = bench.request(turn, missing=missing)
            made = erase(bench.model, asked, method="gs_lora", preset=preset, seed=turn, **settings)
            seconds = time.process_time() - began
            deltas.append(made.delta)
            applied.enter_context(made.delta.apply(bench.model))
            whole = sum(weight.numel() for weight in bench.model.model.parameters())
            yield {
                "model": bench.name,
                "method": name,
                "request": turn + 1,
                **bench.accuracies(turn, missing=missing),
                "parameters": made.diagnostics["trained_parameters"] / whole,
                "zero_groups": made.diagnostics["zero_group_ratio"],
                "processor_seconds": round(seconds, 1),
            }
    if name == "gs_lora":
        with without(deltas, deltas[1].id).apply(bench.model):
            now = bench.recognised()
            for turn in range(REQUESTS):
                among = torch.isin(bench.labels, torch.tensor(bench.classes(turn)))
                yield {
                    "model": bench.name,
                    "method": "gs_lora without request 2",
                    "request": turn + 1,
                    "erased": bench.counts(among, now),
                }


def baseline(bench: Bench, name: str) -> dict[str, Any]:
    """Makes the first request by another method."""
    method, _, ending = name.partition(" ")
    own = f"{bench.name}{ending}"
    preset = own if own in registry.load("methods", method).presets() else f"icons{ending}"
    settings = bench.settings.get(method, {})
    began = time.process_time()
    try:
        made = erase(
            bench.model, bench.request(0), method=method, preset=preset, seed=0, **settings
        )
    except EffaceError as error:
        return {"model": bench.name, "method": name, "failed": str(error)}
    seconds = time.process_time() - began
    with made.delta.apply(bench.model):
        return {
            "model": bench.name,
            "method": name,
            **bench.accuracies(0),
            "processor_seconds": round(seconds, 1),
        }


def run() -> None:
    """Measures what is missing, one line of output a row."""
    torch.set_num_threads(1)
    record: dict[str, list[dict[str, Any]]] = {"chains": [], "baselines": []}
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text())
    for chains in (tuple(CHAINS)[:1], tuple(CHAINS)):  # The plainest first, of each model.
        for model in SIZES:
            whole = model == "icons-vit" and len(chains) > 1
            wanted = BASELINES if whole else ()
            every = (*chains, *TRIED[model]) if len(chains) > 1 else chains
            measure(Bench.bundled(model), record, RESULTS, wanted, every)


def measure(
    bench: Bench,
    record: dict[str, list[dict[str, Any]]],
    file: Path,
    baselines: Sequence[str],
    chains: Sequence[str] = tuple(CHAINS),
) -> None:
    """Measures what a record has no row of, and writes it after each."""
    for kind, names in (("baselines", baselines), ("chains", chains)):
        for name in names:
            if any((row["model"], row["method"]) == (bench.name, name) for row in record[kind]):
                continue
            rows = list(chained(bench, name)) if kind == "chains" else [baseline(bench, name)]
            record[kind].extend(rows)
            write_atomically(file, (json.dumps(record, indent=1) + "\n").encode())
            for row in rows:
                print(json.dumps(row), flush=True)
