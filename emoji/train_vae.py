"""Trains the autoencoder (AutoencoderKL, factor 8, 64 x 64 pixels) and stores it whitened.

    python emoji/train_vae.py [--steps N]

The loss adds L1, squared error, L1 of gradients, L1 of down-sampled colours, and L1 of down-sampled
hues. The shipped run was steered as it went (`logs/vae.jsonl` shows each change): hues were missing
after 2,600 steps, so their term was added with weight 1 and strangers went from 2 to 1 in 8; green
was missing after 6,000, so the weight became 3 and the decay of the learning rate started again;
green was still missing after 6,600, so one latent channel was taught to carry it, and after 7,100
the moving average became shorter.

Afterwards a fixed per-channel affine is folded into quant_conv and post_quant_conv, so that every
latent channel has mean 0 and deviation 1 over the training pictures, and scaling_factor is 1.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from fetch import WORK
from pictures import Pictures, draw
from training import Schedule, train

LATENT_CHANNELS = 12
GREEN = 3
"""The latent channel that is taught to carry green against magenta."""
SEED = 1


def build() -> AutoencoderKL:
    torch.manual_seed(SEED)
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
        scaling_factor=1.0,
    )
    with torch.no_grad():  # start almost deterministic; SD's unit variance drowns a short training
        vae.quant_conv.bias[LATENT_CHANNELS:] = -6.0
        vae.quant_conv.weight[LATENT_CHANNELS:] *= 0.1
    return vae


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    difference = output - target
    loss = difference.abs().mean() + 2 * difference.square().mean()
    for dim in (-1, -2):
        loss = loss + 0.5 * difference.diff(dim=dim).abs().mean()
    for factor in (4, 16):
        loss = loss + 0.5 * F.avg_pool2d(difference, factor).abs().mean()
    hue = difference - difference.mean(dim=1, keepdim=True)
    for factor in (2, 8):
        loss = loss + 3 * F.avg_pool2d(hue, factor).abs().mean()
    return loss


def greenness(images: Tensor) -> Tensor:
    """Mean of green over the mean of red and blue, for every latent place: (n, 8, 8)."""
    red, green, blue = F.avg_pool2d(images, 8).unbind(1)
    return green - (red + blue) / 2


def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of reconstructions from the posterior mean."""
    with torch.no_grad():
        parts = [vae.decode(vae.encode(x).latent_dist.mean).sample for x in images.split(64)]
    error = ((torch.cat(parts).clamp(-1, 1) - images) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())


@torch.no_grad()
def whiten(vae: AutoencoderKL, images: Tensor) -> None:
    """Folds a per-channel affine into the quantisation convolutions; pictures stay the same."""
    means = torch.cat([vae.encode(x).latent_dist.mean for x in images.split(64)])
    mean, deviation = means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3))
    quant, post, n = vae.quant_conv, vae.post_quant_conv, LATENT_CHANNELS
    quant.weight[:n] /= deviation[:, None, None, None]
    quant.bias[:n] = (quant.bias[:n] - mean) / deviation
    quant.bias[n:] -= 2 * deviation.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= deviation[None, :, None, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8300)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pictures, vae = Pictures.read(), build()
    groups = (
        (pictures.trained, 5),
        (pictures.where(kind="pair"), 2),
        (pictures.where(kind="stranger"), 1),
    )

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.cat([draw(rows, count, generator) for rows, count in groups])
        images = pictures.images(rows)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        output = vae.decode(posterior.mean + posterior.std * noise).sample
        error = reconstruction_loss(output, images)
        green = (posterior.mean[:, GREEN] - 3 * greenness(images)).abs().mean()
        parts = {"reconstruction": float(error), "green": float(green)}
        return error + green + 1e-6 * posterior.kl().mean(), parts

    schedule = Schedule(steps=options.steps, peak=2e-3, warmup=100, flat=0.87)
    average = train(
        vae, loss, folder=WORK / "vae", schedule=schedule, seed=SEED, averaging=0.995, every=100
    )
    held_out = pictures.images(pictures.where(kind="noun", held_out=True))
    seen = pictures.images(pictures.trained[::16])
    whiten(average, seen)
    print(
        f"psnr: held-out pairs {psnr(average, held_out):.2f} dB, "
        f"trained {psnr(average, seen):.2f} dB"
    )
    average.half().save_pretrained(WORK / "pipeline" / "vae")


if __name__ == "__main__":
    main()
