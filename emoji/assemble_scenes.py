"""Puts trained weights of scenes into the package, and their log beside those of the others.

    python emoji/assemble_scenes.py

Writes src/efface/bundled/weights/scenes.safetensors in float16, and emoji/logs/scenes.jsonl.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from efface.bundled import weights_folder
from train_scenes import FOLDER, TRAINING


def main() -> None:
    unet = UNet2DConditionModel.from_pretrained(FOLDER / "unet", torch_dtype=torch.float16)
    weights = {name: weight.contiguous() for name, weight in unet.state_dict().items()}
    save_file(weights, weights_folder() / "scenes.safetensors")
    log = Path(__file__).parent / "logs" / "scenes.jsonl"
    log.write_bytes((TRAINING / "log.jsonl").read_bytes())


if __name__ == "__main__":
    main()
