"""Trains the U-Net (epsilon prediction) on latents and caption states computed once.

    python emoji/train_unet.py [--steps N]            a first round from random weights
    python emoji/train_unet.py --again [--steps N]    a further round from the weights of the last

A round has a learning-rate schedule of its own. A quarter of the samples are two-object pictures,
one in ten has the empty caption for classifier-free guidance. Loss weights follow min-SNR (Hang et
al. 2023) with gamma 5. The noise schedule is Stable Diffusion's.

The first round of the shipped weights had a fifth of two-object pictures, of 1,800 made, and 12 %
of its captions had no style; few two-object prompts and synonyms came out right, so the second
round had more of both.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from captions import LENGTH, caption
from fetch import WORK
from pictures import Pictures, draw
from training import Schedule, train

BATCH = 32
PAIRS = 8
"""Two-object pictures in a batch."""
SEED = 3
CAPTIONS_PER_PICTURE = 8
GAMMA = 5.0
EARLY = 400
PIPELINE = WORK / "pipeline"


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build() -> UNet2DConditionModel:
    """The network at its random start."""
    torch.manual_seed(SEED)
    vae = AutoencoderKL.load_config(PIPELINE / "vae")
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=vae["latent_channels"],
        out_channels=vae["latent_channels"],
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,  # the number of heads, as in Stable Diffusion 1.x
        norm_num_groups=16,
    )


@dataclass(frozen=True)
class Table:
    """Latents of every training picture and the states of every caption, ready to look up."""

    mean: Tensor  # (pictures, channels, 8, 8)
    deviation: Tensor
    states: Tensor  # (captions, tokens, width); row 0 is the empty caption
    captions: Tensor  # (pictures, CAPTIONS_PER_PICTURE) rows of states


@torch.no_grad()
def tabulate(pictures: Pictures, rows: Tensor, vae: AutoencoderKL | None = None) -> Table:
    vae = vae or AutoencoderKL.from_pretrained(PIPELINE / "vae").float().eval()
    text = CLIPTextModel.from_pretrained(PIPELINE / "text_encoder").float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer")
    posteriors = [vae.encode(pictures.images(part)).latent_dist for part in rows.split(64)]
    generator = torch.Generator().manual_seed(SEED)
    index, lookup = {"": 0}, torch.zeros(len(rows), CAPTIONS_PER_PICTURE, dtype=torch.long)
    for i, row in enumerate(rows.tolist()):
        for k in range(CAPTIONS_PER_PICTURE):
            text_of_row = caption(pictures.labels[row], generator)
            lookup[i, k] = index.setdefault(text_of_row, len(index))
    padded = tokenizer(list(index), padding="max_length", max_length=LENGTH, return_tensors="pt")
    states = [text(input_ids=part).last_hidden_state for part in padded.input_ids.split(256)]
    means = torch.cat([p.mean for p in posteriors])
    return Table(means, torch.cat([p.std for p in posteriors]), torch.cat(states), lookup)


@dataclass(frozen=True)
class Objective:
    """Error of the predicted noise on pictures and captions drawn from a table."""

    unet: UNet2DConditionModel
    table: Table
    first_pair: int
    """Row of the table where two-object pictures begin."""

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        table, alphas = self.table, scheduler().alphas_cumprod
        weights = (GAMMA * (1 - alphas) / alphas).clamp(max=1)  # min(snr, gamma) / snr
        single = draw(torch.arange(self.first_pair), BATCH - PAIRS, generator)
        double = draw(torch.arange(self.first_pair, len(table.mean)), PAIRS, generator)
        rows = torch.cat([single, double])
        choice = torch.randint(CAPTIONS_PER_PICTURE, (BATCH,), generator=generator)
        dropped = torch.rand(BATCH, generator=generator) < 0.1
        states = table.states[table.captions[rows, choice].masked_fill(dropped, 0)]
        shape = table.mean[rows].shape
        latents = table.mean[rows] + table.deviation[rows] * torch.randn(shape, generator=generator)
        noise = torch.randn(shape, generator=generator)
        timesteps = torch.randint(1000, (BATCH,), generator=generator)
        level = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
        predicted = self.unet(noisy, timesteps, states).sample
        error = (predicted - noise).square().mean(dim=(1, 2, 3))
        return (error * weights[timesteps]).mean(), {"error": float(error.mean())}


def first_round(unet: UNet2DConditionModel, loss: Objective, steps: int) -> UNet2DConditionModel:
    """From random weights; keeps a barely trained network for the judge's rejection set."""
    schedule, folder = Schedule(steps=steps, peak=1e-3, warmup=200, flat=0.55), WORK / "unet"
    if not (folder / "early.pt").exists():
        early = train(unet, loss, folder=folder, schedule=schedule, seed=SEED, until=EARLY)
        torch.save(early.state_dict(), folder / "early.pt")
    return train(unet, loss, folder=folder, schedule=schedule, seed=SEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    pictures, unet = Pictures.read(), build()
    singles, pairs = pictures.trained, pictures.where(kind="pair")
    loss = Objective(unet, tabulate(pictures, torch.cat([singles, pairs])), len(singles))
    if options.again:
        last = UNet2DConditionModel.from_pretrained(PIPELINE / "unet", torch_dtype=torch.float32)
        unet.load_state_dict(last.state_dict())
        schedule = Schedule(steps=options.steps, peak=8e-4, warmup=200, flat=0.5)
        average = train(unet, loss, folder=WORK / "unet_again", schedule=schedule, seed=SEED + 100)
    else:
        average = first_round(unet, loss, options.steps)
    average.half().save_pretrained(PIPELINE / "unet")
    scheduler().save_pretrained(PIPELINE / "scheduler")


if __name__ == "__main__":
    main()
