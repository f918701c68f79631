"""Samples broken generations for the judge's rejection set.

    python emoji/broken.py           writes emoji/work/broken.safetensors (train and test)

Pictures come from the U-Net at random initialisation, from its first few hundred steps
(``train_unet.py`` keeps them), and from latents that are plain noise.
"""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch import Tensor

from assemble import pipeline
from efface.bundled.vocabulary import NOUNS
from fetch import WORK
from train_unet import build

TRAIN, TEST = 384, 192


@torch.no_grad()
def main() -> None:
    """Makes both splits with different seeds."""
    pipe = pipeline().to(torch.float32)
    early = WORK / "unet" / "early.pt"
    parts: dict[str, list[Tensor]] = {"train": [], "test": []}
    for split, count, seed in (("train", TRAIN, 10), ("test", TEST, 20)):
        for source in ("untrained", "early"):
            pipe.unet = build().eval()
            if source == "early":
                pipe.unet.load_state_dict(torch.load(early, weights_only=True))
            prompts = [list(NOUNS)[i % len(NOUNS)] for i in range(count // 3)]
            for start in range(0, len(prompts), 64):
                images = pipe(
                    prompts[start : start + 64],
                    num_inference_steps=8,
                    generator=torch.Generator().manual_seed(seed + start),
                    output_type="pt",
                ).images
                parts[split].append((images * 255).round().byte())
        noise = torch.randn(
            count // 3,
            pipe.vae.config.latent_channels,
            8,
            8,
            generator=torch.Generator().manual_seed(seed),
        )
        decoded = pipe.vae.decode(noise).sample.clamp(-1, 1)
        parts[split].append((decoded * 127.5 + 127.5).round().byte())
    save_file({k: torch.cat(v) for k, v in parts.items()}, WORK / "broken.safetensors")


if __name__ == "__main__":
    main()
