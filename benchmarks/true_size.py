"""One optimiser step of a method at the true size of Stable Diffusion 1.5, with random weights.

python -m benchmarks.true_size esd              prints seconds and peak bytes as JSON
python -m benchmarks.true_size esd --recompute  the same, computing activations twice
python -m benchmarks true_size                  all methods, both ways: results/true_size.json

Each run is a process of its own with one thread. What has a result is not run again.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.methods import TRAINED
from benchmarks.processes import held, took
from efface.concepts import request
from efface.files import write_atomically
from efface.hosts.toys import autoencoder, tiny_tokenizer
from efface.registry import build

RESULTS = Path(__file__).parent / "results" / "true_size.json"
SMALL: dict[str, Any] = {"steps": 1, "trajectories": 1, "sampling_steps": 2, "batch": 1}
EXTRA: dict[str, dict[str, Any]] = {
    "doco": {"warm_up": 1},
    "ant": {"before": 0.5, "maps": 1, "map_batches": 1, "parameters": "key_value"},
    "trce_vision": {"hold_trajectories": 1},
    "spm": {"anchors": 1},
    "harden": {
        "attackers": 1,
        "attack_batch": 1,
        "directions": 1,
        "parameters": "cross_attention",
    },
}
WITHOUT_ANCHOR = ("few_shot",)
"""Methods that steer to none."""


def pipeline() -> Any:
    """Builds a pipeline whose U-Net has the true size; its other parts do not matter here."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = tiny_tokenizer(length=77)
    with torch.random.fork_rng(devices=[]):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=768,
                num_hidden_layers=2,
                num_attention_heads=12,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def run() -> None:
    """Measures what has no result yet, each in a process of its own."""
    record: dict[str, Any] = {"command": "python -m benchmarks true_size", "rows": []}
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text())
    known = {(row["method"], row["recompute"]) for row in record["rows"]}
    for name, recompute in product(TRAINED, (False, True)):
        if (name, recompute) not in known:
            twice = ["--recompute"] if recompute else []
            record["rows"].append(took("benchmarks.true_size", name, *twice, threads=1))
            print(record["rows"][-1], flush=True)
            write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())


def main() -> None:
    """Runs one step and prints what it took."""
    name, recompute = sys.argv[1], "--recompute" in sys.argv[2:]
    pipe = pipeline()
    before = held()
    method = build("methods", name, recompute=recompute, **(SMALL | EXTRA.get(name, {})))
    started = time.perf_counter()
    anchor = None if name in WITHOUT_ANCHOR else "lamp"
    wanted = request("pistol", anchor=anchor, keep=["cat"])
    found = method.erase(pipe, wanted, generator=torch.Generator().manual_seed(0))
    told = {
        "method": name,
        "recompute": recompute,
        "seconds": round(time.perf_counter() - started, 1),
        "model_bytes": before,
        "peak_bytes": held(),
        "evaluations": found.diagnostics["network_evaluations"],
        "changed": len(found.delta.patches),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
