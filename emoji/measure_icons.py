"""Measures the bundled models that read icons, on all held-out views.

    python emoji/measure_icons.py    writes src/efface/bundled/weights/icons.json

Top-1 accuracy over all and by maker or style, of the recogniser with its margin as well, and how
well embeddings tell individuals apart that it never saw: the share of pairs of views, one of the
same individual by different makers and one of two, that cosine similarity orders rightly (AUC).
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import efface
from efface.bundled import weights_folder
from efface.bundled.icon_sets import IconViews, individuals, nouns
from efface.hosts.recogniser import Recogniser
from efface.hosts.vision_families import vision_host


@torch.no_grad()
def answers(host: Any, views: IconViews) -> tuple[Tensor, Tensor]:
    """Logits and features of all views."""
    parts = [range(n, min(n + 256, len(views))) for n in range(0, len(views), 256)]
    both = [host.both(host.model.prepared(views.read(part))) for part in parts]
    logits, features = zip(*both, strict=True)
    return torch.cat(logits), torch.cat(features)


def shares(right: Tensor, makers: tuple[str, ...]) -> dict[str, Any]:
    """Hits and counts over all, and for each maker."""
    found: dict[str, Any] = {"all": [int(right.sum()), len(right)]}
    for maker in dict.fromkeys(makers):
        own = torch.tensor([each == maker for each in makers])
        found[maker] = [int(right[own].sum()), int(own.sum())]
    return found


def pairs_apart(views: IconViews, features: Tensor) -> dict[str, Any]:
    """AUC of telling views of one individual by two makers from views of two individuals."""
    near = functional.normalize(features) @ functional.normalize(features).T
    labels, makers = views.labels, views.makers
    known = {name: n for n, name in enumerate(dict.fromkeys(makers))}
    numbers = torch.tensor([known[maker] for maker in makers])
    other = numbers[:, None] != numbers[None]
    same = labels[:, None] == labels[None]
    positive, negative = near[same & other], near[~same & other]
    generator = torch.Generator().manual_seed(0)
    drawn = negative[torch.randint(len(negative), (len(positive),), generator=generator)]
    order = torch.cat([positive, drawn]).argsort().argsort().double() + 1
    ranks = order[: len(positive)].sum()
    n = len(positive)
    return {"auc": float((ranks - n * (n + 1) / 2) / (n * n)), "pairs": n}


def main() -> None:
    found: dict[str, Any] = {}
    for name, views in (("icons-vit", nouns("test")), ("icons-identities", individuals("test"))):
        host: Any = vision_host(efface.load(name))
        logits, _ = answers(host, views)
        found[name] = {"top1": shares(logits.argmax(1) == views.labels, views.makers)}
        if isinstance(host, Recogniser):
            held = host.with_margin(logits, views.labels).argmax(1) == views.labels
            found[name]["with_margin"] = [int(held.sum()), len(held)]
            strangers = individuals("test", strangers=True, views=1)
            found[name]["strangers"] = pairs_apart(strangers, answers(host, strangers)[1])
        print(name, found[name])
    (weights_folder() / "icons.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
