"""Trains the judge: which nouns are in a picture (any number, or none), and in which style.

    python emoji/train_judge.py [--steps N] [--seed S --out NAME]

The judge is an instrument, so it sees every real picture, the generator's held-out pairs included,
directly and through the autoencoder. Its rejection set (nothing in it may be reported as a
vocabulary noun) has strangers, blends, noise, smudges, and broken generations of an early U-Net
checkpoint when there is one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor

from augment import augment
from efface.bundled.vision import ConvNet, ConvNetShape, save_network
from efface.bundled.vocabulary import NOUNS, STYLES
from fetch import WORK
from pictures import Pictures, draw
from training import Schedule, train

BATCH = 64


@dataclass(frozen=True)
class Material:
    """Pictures as uint8 (n, 3, 64, 64) with noun (n, 64) and style (n,) targets."""

    pixels: Tensor
    nouns: Tensor
    styles: Tensor

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.pixels[rows].float() / 255, self.nouns[rows], self.styles[rows]


@torch.no_grad()
def reconstructions(pixels: Tensor) -> Tensor:
    """Every picture through the autoencoder, as uint8."""
    vae = AutoencoderKL.from_pretrained(WORK / "pipeline" / "vae").float().eval()
    parts = []
    for part in pixels.split(64):
        output = vae.decode(vae.encode(part.float() / 127.5 - 1).latent_dist.mean).sample
        parts.append((output.clamp(-1, 1) * 127.5 + 127.5).round().byte())
    return torch.cat(parts)


def targets(pictures: Pictures, rows: Tensor) -> tuple[Tensor, Tensor]:
    names, styles = list(NOUNS), list(STYLES)
    nouns, style = torch.zeros(len(rows), len(names)), torch.zeros(len(rows), dtype=torch.long)
    for i, row in enumerate(rows.tolist()):
        label = pictures.labels[row]
        for noun in label["nouns"]:
            nouns[i, names.index(noun)] = 1
        style[i] = styles.index(label["style"])
    return nouns, style


def split_strangers(pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Rows of stranger icons for training and, other icons, for measuring."""
    rows = pictures.where(kind="stranger").tolist()
    icons = sorted({pictures.labels[row]["icon"] for row in rows})
    chosen = set(icons[::4])
    unseen = torch.tensor([row for row in rows if pictures.labels[row]["icon"] in chosen])
    return torch.tensor([row for row in rows if pictures.labels[row]["icon"] not in chosen]), unseen


def blank(images: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures of nothing: blends of two, smudges, noise, and shuffled blocks, a quarter each."""
    quarter = len(images) // 4
    blends = 0.5 * images[:quarter] + 0.5 * other[:quarter]
    smudges = F.avg_pool2d(images[quarter : 2 * quarter], 21, 1, 10, count_include_pad=False)
    grain = torch.rand(quarter, 3, 64, 64, generator=generator)
    coarse = F.interpolate(
        torch.rand(quarter, 3, 8, 8, generator=generator), size=64, mode="bicubic"
    )
    noise = torch.where(torch.rand(quarter, 1, 1, 1, generator=generator) < 0.5, grain, coarse)
    blocks = images[3 * quarter :].unfold(2, 16, 16).unfold(3, 16, 16)  # (n, 3, 4, 4, 16, 16)
    order = torch.randperm(16, generator=generator)
    shuffled = blocks.flatten(2, 3)[:, :, order].unflatten(2, (4, 4))
    return torch.cat(
        [blends, smudges, noise, shuffled.permute(0, 1, 2, 4, 3, 5).reshape(-1, 3, 64, 64)]
    )


def read_material(pictures: Pictures) -> tuple[Material, Material, Tensor]:
    """Real pictures and strangers, also through the autoencoder; broken generations."""
    rows = torch.cat([pictures.where(kind="noun"), pictures.where(kind="pair")])
    rows = torch.tensor([r for r in rows.tolist() if pictures.labels[r]["view"] != 7])
    strangers, _ = split_strangers(pictures)
    both = [
        torch.cat([pictures.pixels[r], reconstructions(pictures.pixels[r])])
        for r in (rows, strangers)
    ]
    nouns, styles = targets(pictures, rows)
    known = Material(both[0], nouns.repeat(2, 1), styles.repeat(2))
    _, strange_styles = targets(pictures, strangers)
    strange = Material(both[1], torch.zeros(len(both[1]), len(NOUNS)), strange_styles.repeat(2))
    broken_file = WORK / "broken.safetensors"
    broken = (
        load_file(broken_file)["train"]
        if broken_file.exists()
        else torch.zeros(0, 3, 64, 64).byte()
    )
    return known, strange, broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--widths", type=int, nargs=4, default=(16, 32, 64, 128))
    parser.add_argument("--out", default="judge")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pictures = Pictures.read()
    known, strange, broken = read_material(pictures)
    torch.manual_seed(options.seed)
    judge = ConvNet(ConvNetShape(tuple(options.widths), len(NOUNS) + len(STYLES)))

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        seen, nouns, styles = known.take(draw(torch.arange(len(known.pixels)), BATCH, generator))
        odd, no_nouns, odd_styles = strange.take(
            draw(torch.arange(len(strange.pixels)), 40, generator)
        )
        nothing = blank(seen[:24], seen[24:48], generator)
        if len(broken):
            nothing = torch.cat(
                [nothing, broken[draw(torch.arange(len(broken)), 12, generator)].float() / 255]
            )
        images = torch.cat([augment(torch.cat([seen, odd]), generator), nothing])
        empty = torch.zeros(len(nothing), len(NOUNS))
        asked = torch.cat([styles, odd_styles])
        output = judge(images)
        present = output[:, : len(NOUNS)]
        nouns_loss = F.binary_cross_entropy_with_logits(
            present, torch.cat([nouns, no_nouns, empty])
        )
        style_loss = F.cross_entropy(output[: len(asked), len(NOUNS) :], asked)
        right = (present[: len(seen)].argmax(1) == nouns.argmax(1)).float().mean()
        shares = nouns / nouns.sum(1, keepdim=True)
        naming = F.cross_entropy(present[: len(seen)], shares)  # takes off faster than presence
        return 16 * nouns_loss + naming + style_loss, {
            "nouns": float(nouns_loss),
            "right": float(right),
        }

    schedule = Schedule(steps=options.steps, peak=2e-3, warmup=100, flat=0.4)
    best = train(
        judge,
        loss,
        folder=WORK / options.out,
        schedule=schedule,
        seed=options.seed,
        averaging=0.99,
        every=50,
    )
    assert isinstance(best, ConvNet)
    (WORK / "weights").mkdir(exist_ok=True)
    save_network(best, WORK / "weights" / f"{options.out}.safetensors")


if __name__ == "__main__":
    main()
