"""Puts the trained parts into the package as a plain StableDiffusionPipeline in float16.

python emoji/assemble.py
python emoji/assemble.py --back     lays the shipped parts into work/, to train one of them anew
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from efface.bundled import weights_folder
from fetch import WORK
from train_unet import PIPELINE, scheduler

LIMIT = 40 * 2**20
"""What all shipped weights together may weigh, in bytes."""


def pipeline() -> StableDiffusionPipeline:
    """The parts as they lie in the work folder."""
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(PIPELINE / "vae", torch_dtype=torch.float16),
        text_encoder=CLIPTextModel.from_pretrained(
            PIPELINE / "text_encoder", torch_dtype=torch.float16
        ),
        tokenizer=CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(PIPELINE / "unet", torch_dtype=torch.float16),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def size(folder: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def lay_back() -> None:
    """Copies the shipped pipeline to where the trainings read their predecessors from."""
    shutil.copytree(weights_folder() / "pipeline", PIPELINE, dirs_exist_ok=True)
    for part in ("clip_image", "clip_text_projection"):
        (WORK / "weights").mkdir(parents=True, exist_ok=True)
        shutil.copy2(weights_folder() / f"{part}.safetensors", WORK / "weights")


def main() -> None:
    """Writes ``pipeline/`` and copies the judges and the CLIP image tower beside it."""
    if "--back" in sys.argv[1:]:
        lay_back()
        return
    target = weights_folder()
    shutil.rmtree(target / "pipeline", ignore_errors=True)
    pipeline().save_pretrained(target / "pipeline", safe_serialization=True)
    for config in (target / "pipeline").rglob("*.json"):
        values = json.loads(config.read_text())
        if values.pop("_name_or_path", None) is not None:  # a path of the machine that trained it
            config.write_text(json.dumps(values, indent=2) + "\n")
    for file in (WORK / "weights").glob("*.safetensors"):
        shutil.copy2(file, target / file.name)
    total = size(target)
    if total > LIMIT:
        raise SystemExit(f"{total / 2**20:.1f} MB of weights; at most {LIMIT / 2**20:.0f} may ship")
    print(f"{total / 2**20:.1f} MB in {target.name}/")


if __name__ == "__main__":
    main()
