"""Forgetting on 70,000 real pictures: a ViT and a ResNet trained on Fashion-MNIST, every method.

    apt-get install dataset-fashion-mnist
    python -m benchmarks fashion     writes benchmarks/results/fashion.json

The two small networks are trained once into runs/fashion and are not shipped. Four requests of two
classes by GS-LoRA and GS-LoRA++, which need the feed-forward layers of the ViT, and every baseline
on the first request with retraining beside it, of both. Baselines see a quarter of the training
pictures, retraining all. What has a row is not measured again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn import functional

import efface
from benchmarks.forgetting import BASELINES, Bench, measure
from efface.data.batches import Batches
from efface.data.idx import idx_files
from efface.errors import MissingInput
from efface.hosts.vision import VisionModel

__all__ = ["run"]

DATA = Path("/usr/share/datasets/fashion-mnist")
NETWORKS = Path("runs") / "fashion"
RESULTS = Path(__file__).parent / "results" / "fashion.json"
EPOCHS, BATCH, SEED, SIDE = 3, 128, 7, 28
TESTED = 4000
"""Held-out pictures that are looked at, the first of 10,000."""
SHAPE: dict[str, Any] = {
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "image_size": SIDE,
    "patch_size": 4,
}


SETTINGS: dict[str, dict[str, Any]] = {
    "gs_lora": {"rank": 2, "alpha": 2.0, "replay": 0.1},
    "retrain": {"epochs": float(EPOCHS), "batch": BATCH},
    **{name.partition(" ")[0]: {"replay": 0.25} for name in BASELINES if name != "retrain"},
}
"""Shares of 60,000 pictures that are taken, and a rank that keeps a request below 2 % of weights:
the network is narrow."""


FOUR_REQUESTS = (
    "gs_lora",
    "gs_lora_plus",
    "gs_lora few",
    "gs_lora_plus few",
    "gs_lora_plus few, suppressed",
    "gs_lora_plus few, suppressed more and held",
)
"""Chains of the ViT."""
RESNET: dict[str, Any] = {
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 64],
    "depths": [1, 1, 1],
    "layer_type": "basic",
}


def _drawn(kind: str, names: Mapping[int, str]) -> Any:
    """Gives a network with random weights."""
    labels = {"id2label": dict(names), "label2id": {name: n for n, name in names.items()}}
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(SEED)
        if kind == "vit":
            return transformers.ViTForImageClassification(transformers.ViTConfig(**SHAPE, **labels))
        return transformers.ResNetForImageClassification(
            transformers.ResNetConfig(**RESNET, **labels)
        )


def trained(kind: str) -> VisionModel:
    """Trains a network where it is not there yet."""
    folder = NETWORKS / kind
    if not (folder / "config.json").exists():
        pictures = idx_files(DATA)
        network = _drawn(kind, dict(enumerate(pictures.names)))
        levels = torch.tensor(pictures.levels[:])
        generator, deal = torch.Generator().manual_seed(SEED), Batches(len(pictures), BATCH)
        steps = deal.steps(EPOCHS)
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        network.train()
        for _ in range(steps):
            which = deal.next(generator)
            pixels = (levels[which].float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)
            optimiser.zero_grad()
            logits = network(pixel_values=pixels).logits
            functional.cross_entropy(logits, pictures.labels[which]).backward()
            optimiser.step()
            falling.step()
        network.save_pretrained(folder)
        transformers.ViTImageProcessorPil(
            size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ).save_pretrained(folder)
    model: VisionModel = efface.load(folder)
    return model


def run() -> None:
    """Measures what is missing, one line of output a row."""
    torch.set_num_threads(1)
    if not DATA.is_dir():
        raise MissingInput(f"{DATA} is missing; run: apt-get install dataset-fashion-mnist")
    record: dict[str, Any] = {"chains": [], "baselines": []}
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text())
    from efface.data.pictures import Part

    whole = idx_files(DATA, "test")
    test = Part(whole, torch.arange(TESTED))
    train = idx_files(DATA)
    for kind, wanted in {"vit": FOUR_REQUESTS, "resnet": ()}.items():
        bench = Bench(
            f"fashion-{kind}", trained(kind), train=train, test=test, size=2, settings=SETTINGS
        )
        print(f"{kind}, unedited: {int(bench.right.sum())} of {TESTED}", flush=True)
        measure(bench, record, RESULTS, BASELINES, wanted)
