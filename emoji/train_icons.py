"""Trains the bundled models that read icons: a classifier of nouns, a recogniser of individuals.

    python emoji/train_icons.py nouns | individuals [--steps N] [--until STEP]

Both are small ViTs, trained from random weights on the training views that the package can make
again (efface.bundled.icon_sets); nothing else is drawn, so what is a member of the training set is
known exactly. Writes src/efface/bundled/weights/icons-{vit,identities} in float16.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from efface.bundled import weights_folder
from efface.bundled.icon_sets import SIDE, IconViews, individuals, nouns
from efface.hosts.cosface import CosFaceConfig, CosFaceNetwork
from fetch import WORK
from training import Schedule, train

BATCH = 64
BACKBONE: dict[str, Any] = {
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "intermediate_size": 768,
    "image_size": SIDE,
    "patch_size": 8,
}
NAMES = {"nouns": "icons-vit", "individuals": "icons-identities"}


def pixels(views: IconViews) -> Tensor:
    """All views as uint8."""
    parts = [
        torch.stack(views.read(range(start, min(start + 512, len(views)))))
        for start in range(0, len(views), 512)
    ]
    return torch.cat([(part * 255).round().byte() for part in parts])


def prepared(levels: Tensor) -> Tensor:
    """What the processor makes of them."""
    return levels.float() / 127.5 - 1


def network(kind: str, names: tuple[str, ...]) -> Any:
    """The untrained network."""
    labels = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    if kind == "nouns":
        return ViTForImageClassification(ViTConfig(**BACKBONE, **labels))
    return CosFaceNetwork(CosFaceConfig(backbone=BACKBONE, scale=32.0, margin=0.2, **labels))


@torch.no_grad()
def accuracy(model: Any, views: IconViews) -> float:
    """Share of views that get their true name, without any margin."""
    levels, right = pixels(views), 0
    for part, labels in zip(levels.split(256), views.labels.split(256), strict=True):
        right += int((model(pixel_values=prepared(part)).logits.argmax(1) == labels).sum())
    return right / len(views)


def main() -> None:
    reader = argparse.ArgumentParser()
    reader.add_argument("kind", choices=NAMES)
    reader.add_argument("--steps", type=int, default=3200)
    reader.add_argument("--until", type=int)
    reader.add_argument("--seed", type=int, default=11)
    given = reader.parse_args()
    sets = {"nouns": nouns, "individuals": individuals}[given.kind]
    views = sets("train")
    levels, labels = pixels(views), views.labels
    torch.manual_seed(given.seed)
    model = network(given.kind, views.names)

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        which = torch.randint(len(levels), (BATCH,), generator=generator)
        logits = model(pixel_values=prepared(levels[which])).logits
        right = float((logits.argmax(1) == labels[which]).float().mean())
        if given.kind == "individuals":
            logits = model.with_margin(logits, labels[which])
        smooth = 0.05 if given.kind == "nouns" else 0.0
        return functional.cross_entropy(logits, labels[which], label_smoothing=smooth), {
            "right": right
        }

    folder = WORK / f"icons_{given.kind}"
    model.train()
    average = train(
        model,
        loss,
        folder=folder,
        schedule=Schedule(steps=given.steps, peak=1e-3, warmup=200, flat=0.4, floor=0.01),
        seed=given.seed,
        averaging=0.998,
        weight_decay=0.05,
        until=given.until,
    )
    for split in ("train", "test"):
        print(split, accuracy(average.eval(), sets(split, views=2)), flush=True)
    out = weights_folder() / NAMES[given.kind]
    shutil.rmtree(out, ignore_errors=True)
    average.half().save_pretrained(out)
    ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(out)
    log = Path(__file__).parent / "logs" / f"{NAMES[given.kind]}.jsonl"
    log.write_bytes((folder / "log.jsonl").read_bytes())
    print(json.dumps({"parameters": sum(w.numel() for w in average.parameters())}))


if __name__ == "__main__":
    main()
