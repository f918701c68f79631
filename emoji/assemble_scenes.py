"""Puts trained weights of scenes into the package, and their logs beside those of the others.

    python emoji/assemble_scenes.py

Writes src/efface/bundled/weights/{scenes,scene_judge}.safetensors in float16.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from efface.bundled import weights_folder
from fetch import WORK

FOLDER = WORK / "scenes"


def main() -> None:
    unet = UNet2DConditionModel.from_pretrained(FOLDER / "unet", torch_dtype=torch.float16)
    weights = {name: weight.contiguous() for name, weight in unet.state_dict().items()}
    save_file(weights, weights_folder() / "scenes.safetensors")
    judge = FOLDER / "scene_judge.safetensors"
    (weights_folder() / judge.name).write_bytes(judge.read_bytes())
    logs = Path(__file__).parent / "logs"
    rounds = {
        "scenes_first_round": "training",
        "scenes_second_round": "training_again",
        "scene_judge_first_round": "judge",
        "scene_judge_second_round": "judge_again",
    }
    for name, folder in rounds.items():
        if (log := FOLDER / folder / "log.jsonl").exists():
            (logs / f"{name}.jsonl").write_bytes(log.read_bytes())


if __name__ == "__main__":
    main()
