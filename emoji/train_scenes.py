"""Trains the U-Net of emoji-scenes, from the bundled one, on scenes of one to three icons.

    python emoji/train_scenes.py [--steps N] [--until STEP]

Scenes are drawn and encoded once; captions are drawn anew whenever a scene is. One caption in ten
is empty, for classifier-free guidance. Loss weights follow min-SNR (Hang et al. 2023) with gamma 5.
Writes work/scenes/unet, a diffusers folder of the averaged weights, at the end of the schedule; a
training that was interrupted goes on from its last checkpoint, of which there is one every 100
steps.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from captions import LENGTH
from efface.bundled import pipeline_folder
from efface.bundled.scenes import pad_plainly
from fetch import WORK
from scenes import Drawn, caption_of, picture, scenes
from train_unet import GAMMA, scheduler
from training import Schedule, train

BATCH = 16
SCENES = 6_000
SEED = 29
FOLDER = WORK / "scenes"
TRAINING = FOLDER / "native"


@dataclass(frozen=True)
class Text:
    """The bundled text tower with plain padding."""

    tokenizer: CLIPTokenizer
    encoder: CLIPTextModel

    @classmethod
    def bundled(cls) -> Text:
        folder = pipeline_folder()
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").float().eval()
        pad_plainly(tokenizer, encoder)
        return cls(tokenizer, encoder)

    @torch.no_grad()
    def states(self, texts: list[str]) -> Tensor:
        """What the U-Net reads, (texts, tokens, width)."""
        given = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        states: Tensor = self.encoder(input_ids=given.input_ids).last_hidden_state
        return states


@dataclass(frozen=True)
class Table:
    """The scenes of training with their latents."""

    drawn: list[Drawn]
    mean: Tensor  # (scenes, channels, 8, 24)
    deviation: Tensor  # of each channel, on average


@torch.no_grad()
def encoded(drawn: list[Drawn]) -> tuple[Tensor, Tensor]:
    """Means of the scenes' latents, and the deviation of each channel.

    Scenes are encoded whole: the autoencoder's norms go over all of a picture, and an empty slot
    alone is nothing it knows.
    """
    vae = AutoencoderKL.from_pretrained(pipeline_folder() / "vae").float().eval()
    draw, means, deviations = np.random.default_rng(SEED), [], []
    for start in range(0, len(drawn), 32):
        pixels = np.stack([np.asarray(picture(one, draw)) for one in drawn[start : start + 32]])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        posterior = vae.encode(images).latent_dist
        means.append(posterior.mean.half())
        deviations.append(posterior.std.mean(dim=(0, 2, 3)))
    return torch.cat(means).contiguous(), torch.stack(deviations).mean(0).contiguous()


def table(count: int) -> Table:
    """The scenes of training; their latents are made once and then read."""
    drawn = list(islice(scenes(np.random.default_rng(SEED)), count))
    path = FOLDER / "native_latents.safetensors"
    if not path.exists():
        mean, deviation = encoded(drawn)
        FOLDER.mkdir(parents=True, exist_ok=True)
        save_file({"mean": mean, "deviation": deviation}, path)
    stored = load_file(path)
    if len(stored["mean"]) != count:
        raise SystemExit(f"{path.name} holds {len(stored['mean'])} scenes, not {count}; delete it")
    return Table(drawn, stored["mean"], stored["deviation"])


@dataclass(frozen=True)
class Objective:
    """Error of the predicted noise on scenes and captions."""

    unet: UNet2DConditionModel
    text: Text
    table: Table

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        alphas = scheduler().alphas_cumprod
        weights = (GAMMA * (1 - alphas) / alphas).clamp(max=1)  # min(snr, gamma) / snr
        rows = torch.randint(len(self.table.drawn), (BATCH,), generator=generator)
        mean = self.table.mean[rows].float()
        spread = torch.randn(mean.shape, generator=generator)
        latents = mean + self.table.deviation.view(1, -1, 1, 1) * spread
        captions = [caption_of(self.table.drawn[row], generator) for row in rows.tolist()]
        dropped = (torch.rand(BATCH, generator=generator) < 0.1).tolist()
        texts = ["" if drop else text for text, drop in zip(captions, dropped, strict=True)]
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(1000, (BATCH,), generator=generator)
        level = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
        predicted = self.unet(noisy, timesteps, self.text.states(texts)).sample
        error = (predicted - noise).square().mean(dim=(1, 2, 3))
        loss = (error * weights[timesteps]).mean()
        return loss, {"error": float(error.detach().mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--until", type=int)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    unet = UNet2DConditionModel.from_pretrained(pipeline_folder() / "unet").float().train()
    average = train(
        unet,
        Objective(unet, Text.bundled(), table(SCENES)),
        folder=TRAINING,
        schedule=Schedule(steps=options.steps, peak=1e-3, warmup=100, flat=0.6),
        seed=SEED,
        until=options.until,
    )
    if options.until is None:
        average.half().save_pretrained(FOLDER / "unet")


if __name__ == "__main__":
    main()
