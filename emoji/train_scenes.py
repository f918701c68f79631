"""Trains the U-Net of emoji-scenes, from the bundled one, on scenes of one to three icons.

    python emoji/train_scenes.py [--steps N] [--until STEP]      a first round
    python emoji/train_scenes.py --again [--steps N]             a further one from its weights

Scenes are drawn and encoded once; captions are drawn anew whenever a scene is. One caption in ten
is empty, for classifier-free guidance. Loss weights follow min-SNR (Hang et al. 2023) with gamma 5.
Writes work/scenes/unet, a diffusers folder of the averaged weights; a round has a learning-rate
schedule of its own, and goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

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
from scenes import Drawn, Placed, caption_of, picture, scenes
from train_unet import GAMMA, scheduler
from training import Schedule, train

BATCH = 16
SCENES = 12_000
SEED = 29
FOLDER = WORK / "scenes"


@dataclass(frozen=True)
class Text:
    """The bundled text tower with plain padding."""

    tokenizer: CLIPTokenizer
    encoder: CLIPTextModel

    @classmethod
    def bundled(cls, *, plain: bool = True) -> Text:
        folder = pipeline_folder()
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").float().eval()
        if plain:
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


@torch.no_grad()
def encoded(drawn: list[Drawn], vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Means of the scenes' latents, and the deviation of each channel."""
    means, deviations = [], []
    for start in range(0, len(drawn), 64):
        pixels = np.stack([np.asarray(picture(one)) for one in drawn[start : start + 64]])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        posterior = vae.encode(images).latent_dist
        means.append(posterior.mean.half().contiguous())
        deviations.append(posterior.std.mean(dim=(0, 2, 3)))
    return torch.cat(means).contiguous(), torch.stack(deviations).mean(0).contiguous()


def table(count: int) -> tuple[list[Drawn], Tensor, Tensor]:
    """The scenes of training with their latents, made once and then read."""
    path = FOLDER / "latents.safetensors"
    drawn = list(scenes(count, SEED))
    rows = json.dumps([asdict(one) for one in drawn])
    if path.exists():
        if (FOLDER / "scenes.json").read_text() != rows:
            raise SystemExit(f"{path.name} holds other scenes; delete it")
        stored = load_file(path)
        return drawn, stored["mean"], stored["deviation"]
    vae = AutoencoderKL.from_pretrained(pipeline_folder() / "vae").float().eval()
    mean, deviation = encoded(drawn, vae)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "scenes.json").write_text(rows)
    save_file({"mean": mean, "deviation": deviation}, path)
    return drawn, mean, deviation


@dataclass(frozen=True)
class Objective:
    """Error of the predicted noise on scenes and captions."""

    unet: UNet2DConditionModel
    text: Text
    drawn: list[Drawn]
    mean: Tensor
    deviation: Tensor

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        alphas = scheduler().alphas_cumprod
        weights = (GAMMA * (1 - alphas) / alphas).clamp(max=1)  # min(snr, gamma) / snr
        rows = torch.randint(len(self.drawn), (BATCH,), generator=generator)
        dropped = (torch.rand(BATCH, generator=generator) < 0.1).tolist()
        captions = [caption_of(self.drawn[row], generator) for row in rows.tolist()]
        texts = ["" if drop else text for text, drop in zip(captions, dropped, strict=True)]
        states = self.text.states(texts)
        mean = self.mean[rows].float()
        spread = torch.randn(mean.shape, generator=generator)
        latents = mean + self.deviation.view(1, -1, 1, 1) * spread
        noise = torch.randn(mean.shape, generator=generator)
        timesteps = torch.randint(1000, (BATCH,), generator=generator)
        level = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
        predicted = self.unet(noisy, timesteps, states).sample
        error = (predicted - noise).square().mean(dim=(1, 2, 3))
        return (error * weights[timesteps]).mean(), {"error": float(error.mean())}


def read_scenes() -> list[Drawn]:
    """The scenes of the table, as they were written."""
    rows = json.loads((FOLDER / "scenes.json").read_text())
    return [Drawn(tuple(Placed(**t) for t in r.pop("things")), **r) for r in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4300)
    parser.add_argument("--until", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    start = FOLDER / "unet" if options.again else pipeline_folder() / "unet"
    unet = UNet2DConditionModel.from_pretrained(start).float().train()
    loss = Objective(unet, Text.bundled(), *table(SCENES))
    average = train(
        unet,
        loss,
        folder=FOLDER / ("training_again" if options.again else "training"),
        schedule=Schedule(steps=options.steps, peak=options.rate, warmup=100, flat=0.5),
        seed=SEED + 100 * options.again,
        until=options.until,
    )
    average.half().save_pretrained(FOLDER / "unet")


if __name__ == "__main__":
    main()
