"""Fine-tunes the bundled model onto another domain, for what is to work on fine-tunes of a model.

    python emoji/train_remix.py [--steps N]      writes work/weights/remix.safetensors

The domain is that of `efface.emoji.remix.turned`: mirrored, with lightness turned over. First the
autoencoder is trained on turned pictures, then the U-Net on their latents, each through low-rank
layers beside all its linear layers and convolutions; the text encoder stays. Those layers are what
is stored.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from efface.emoji.remix import turned
from fetch import WORK
from pictures import Pictures, draw
from train_unet import PIPELINE, Objective, tabulate
from train_vae import psnr, reconstruction_loss
from training import Schedule, train

RANK = 16
SEED = 11


class LowRank(nn.Module):
    """Adds ``up @ down`` to a weight; nothing at first."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        wide = weight[0].numel()
        rank = min(RANK, len(weight), wide)
        self.up = nn.Parameter(torch.zeros(len(weight), rank))
        self.down = nn.Parameter(torch.randn(rank, wide) / wide**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).reshape(weight.shape)


def widened(network: Any) -> Any:
    """Lets low-rank layers alone be trained."""
    torch.manual_seed(SEED)
    network.requires_grad_(requires_grad=False)
    for layer in list(network.modules()):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight))
    return network


def factors(network: nn.Module, component: str) -> dict[str, Tensor]:
    """The low-rank layers by component, path and side, in float16."""
    return {
        f"{component}/{path}.weight::{side}": getattr(layer.parametrizations.weight[0], side)
        .detach()
        .half()
        for path, layer in network.named_modules()
        if parametrize.is_parametrized(layer)
        for side in ("up", "down")
    }


def autoencoder(pictures: Pictures, steps: int) -> AutoencoderKL:
    """The autoencoder, trained on turned pictures."""
    groups = ((pictures.trained, 6), (pictures.where(kind="pair"), 2))
    vae = widened(AutoencoderKL.from_pretrained(PIPELINE / "vae", torch_dtype=torch.float32))

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.cat([draw(rows, count, generator) for rows, count in groups])
        images = pictures.images(rows)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        error = reconstruction_loss(
            vae.decode(posterior.mean + posterior.std * noise).sample, images
        )
        return error + 1e-4 * posterior.kl().mean(), {"reconstruction": float(error)}

    schedule = Schedule(steps=steps, peak=3e-3, warmup=50, flat=0.6)
    folder = WORK / "remix_vae"
    average = train(vae, loss, folder=folder, schedule=schedule, seed=SEED, averaging=0.99)
    held_out = pictures.images(pictures.where(kind="noun", held_out=True))
    print(f"psnr of held-out pairs: {psnr(average, held_out):.2f} dB", flush=True)
    return average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae-steps", type=int, default=900)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    pictures = Pictures.read()
    pictures = replace(pictures, pixels=turned(pictures.pixels / 255).mul(255).round().byte())
    vae = autoencoder(pictures, options.vae_steps)
    unet = widened(
        UNet2DConditionModel.from_pretrained(PIPELINE / "unet", torch_dtype=torch.float32)
    )
    singles, pairs = pictures.trained, pictures.where(kind="pair")
    table = tabulate(pictures, torch.cat([singles, pairs]), vae=vae)
    loss = Objective(unet, table, len(singles))
    schedule = Schedule(steps=options.steps, peak=2e-3, warmup=100, flat=0.5)
    average = train(unet, loss, folder=WORK / "remix_unet", schedule=schedule, seed=SEED + 1)
    (WORK / "weights").mkdir(parents=True, exist_ok=True)
    save_file(factors(vae, "vae") | factors(average, "unet"), WORK / "weights/remix.safetensors")


if __name__ == "__main__":
    main()
