"""Fine-tunes the bundled model onto another domain, for what is to work on fine-tunes of a model.

    python emoji/train_remix.py [--steps N]      writes work/weights/remix.safetensors

The domain is that of `efface.bundled.remix.turned`: mirrored, with lightness turned over. The U-Net
is trained on the latents of mirrored pictures, and the autoencoder to turn lightness over between
such latents and pictures, each through low-rank layers beside all its linear layers and
convolutions; the text encoder stays. Those layers are what is stored.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from efface.bundled.remix import turned
from fetch import WORK
from low_rank import factors, widened
from pictures import Pictures, draw
from train_unet import PIPELINE, Objective, tabulate
from train_vae import reconstruction_loss
from training import Schedule, train

SEED = 11


def autoencoder(pictures: Pictures, steps: int) -> AutoencoderKL:
    """An autoencoder of turned pictures whose latents are those of mirrored ones in the base's."""
    groups = ((pictures.trained, 6), (pictures.where(kind="pair"), 2))
    base = AutoencoderKL.from_pretrained(PIPELINE / "vae", torch_dtype=torch.float32)
    vae = widened(copy.deepcopy(base), SEED)

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        images = pictures.images(torch.cat([draw(rows, n, generator) for rows, n in groups]))
        wanted = turned(images / 2 + 0.5) * 2 - 1
        with torch.no_grad():
            latents = base.encode(images.flip(-1)).latent_dist
        noise = torch.randn(latents.mean.shape, generator=generator)
        output = vae.decode(latents.mean + latents.std * noise).sample
        error = reconstruction_loss(output, wanted)
        apart = (vae.encode(wanted).latent_dist.mean - latents.mean).square().mean()
        parts = {"reconstruction": error.detach(), "latents": apart.detach()}
        return error + apart, {name: float(part) for name, part in parts.items()}

    schedule = Schedule(steps=steps, peak=3e-3, warmup=50, flat=0.6)
    folder = WORK / "remix_vae"
    return train(vae, loss, folder=folder, schedule=schedule, seed=SEED, averaging=0.99)


def network(pictures: Pictures, steps: int) -> UNet2DConditionModel:
    """The U-Net, trained on the latents of mirrored pictures."""
    mirrored = replace(pictures, pixels=pictures.pixels.flip(-1))
    singles, pairs = pictures.trained, pictures.where(kind="pair")
    table = tabulate(mirrored, torch.cat([singles, pairs]))
    unet = UNet2DConditionModel.from_pretrained(PIPELINE / "unet", torch_dtype=torch.float32)
    loss = Objective(widened(unet, SEED), table, len(singles))
    schedule = Schedule(steps=steps, peak=2e-3, warmup=100, flat=0.5)
    folder = WORK / "remix_unet"
    return train(unet, loss, folder=folder, schedule=schedule, seed=SEED + 1, averaging=0.99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--vae-steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    pictures = Pictures.read()
    unet, vae = network(pictures, options.steps), autoencoder(pictures, options.vae_steps)
    (WORK / "weights").mkdir(parents=True, exist_ok=True)
    save_file(factors(vae, "vae") | factors(unet, "unet"), WORK / "weights/remix.safetensors")


if __name__ == "__main__":
    main()
