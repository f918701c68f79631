"""Trains the judge of scenes: which nouns are in a picture, how many, and where; and its style.

    python emoji/train_scene_judge.py [--steps N]             a first round
    python emoji/train_scene_judge.py --again [--steps N]     a further one from its weights

Both write work/scenes/scene_judge.safetensors. The judge is an instrument: it sees every noun in
every style and all pairs of nouns. Its loss in each place is the focal loss of CenterNet (Zhou et
al. 2019) with exponents 2 and 4.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from efface.bundled.scene_judge import SceneNet, load_scene_net, save_scene_net
from fetch import WORK
from scene_material import Material, material
from training import Schedule, train

BATCH = 32
PICTURES = 7_000
SEED = 31
FOLDER = WORK / "scenes"


def stored(count: int, seed: int, name: str, **settings: Any) -> Material:
    """The material of a seed, made once and then read."""
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        made = material(count, seed, **settings)
        FOLDER.mkdir(parents=True, exist_ok=True)
        save_file({"pixels": made.pixels, "things": made.things, "styles": made.styles}, path)
    return Material(**load_file(path))


def relit(images: Tensor, generator: torch.Generator) -> Tensor:
    """Changes light, softness and grain, not places."""
    n = len(images)

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(n, channels, 1, 1, generator=generator)

    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    mixed = torch.lerp(images, soft, uniform(0, 1) * (uniform(0, 1) < 0.4))
    lit = mixed * uniform(0.93, 1.05, 3) + uniform(-0.03, 0.03)
    grain = torch.randn(images.shape, generator=generator) * uniform(0, 0.04)
    return (lit + grain).clamp(0, 1)


def focal(logits: Tensor, heat: Tensor) -> Tensor:
    """Sum over places and nouns, for each thing there is."""
    right, wrong = F.logsigmoid(logits), F.logsigmoid(-logits)
    probability = logits.sigmoid()
    centre = heat == 1
    hit = -((1 - probability) ** 2 * right)[centre].sum()
    miss = -((1 - heat) ** 4 * probability**2 * wrong)[~centre].sum()
    return (hit + miss) / centre.sum().clamp(min=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--until", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seen = stored(PICTURES, SEED, "judge_train")
    seed, out = SEED + 100 * options.again, FOLDER / "scene_judge.safetensors"
    torch.manual_seed(seed)
    judge = SceneNet()
    if options.again:
        judge.load_state_dict(load_scene_net(out).state_dict())

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(seen.pixels), (BATCH,), generator=generator)
        images = relit(seen.pixels[rows].float() / 255, generator)
        places, look = judge(images)
        heat = seen.heat(rows)
        found, style = focal(places, heat), F.cross_entropy(look, seen.styles[rows])
        best = places.permute(0, 2, 3, 1)[(heat == 1).any(1)].argmax(1)
        right = (best == heat.permute(0, 2, 3, 1)[(heat == 1).any(1)].argmax(1)).float().mean()
        return found + 0.2 * style, {"style": float(style), "right": float(right)}

    average = train(
        judge,
        loss,
        folder=FOLDER / ("judge_again" if options.again else "judge"),
        schedule=Schedule(steps=options.steps, peak=2e-3, warmup=100, flat=0.4),
        seed=seed,
        averaging=0.99,
        every=50,
        until=options.until,
    )
    save_scene_net(average, out)


if __name__ == "__main__":
    main()
