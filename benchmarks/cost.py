"""Network evaluations and weight memory of every method beside those of the authors' code.

    python -m benchmarks cost     writes benchmarks/results/cost.json

Ours are counted on a toy model in the layout of SD 1.x with the published settings, in pool mode:
what a run takes once and what a step takes are told apart by runs of two lengths, and added up for
the published number of steps. The authors' are added up from what their code does in an iteration,
as the comments say; sampling to a uniformly drawn depth of 50 steps takes 24.5 on average, two
evaluations each. One evaluation is one sample through the U-Net. Weight memory is what the U-Nets
and everything that is trained take while training, at the size of SD 1.5, in copies of one U-Net:
gradients, states of optimisers and masks are left out on both sides.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from efface.concepts import request
from efface.files import write_atomically
from efface.hosts.families import tiny_pipeline
from efface.registry import build

RESULTS = Path(__file__).parent / "results" / "cost.json"
DEPTH = 24.5
"""Mean number of sampler steps before a latent is used, of 50."""


@dataclass(frozen=True)
class Authors:
    """What the authors' code takes for one concept."""

    evaluations: float
    networks: float
    """U-Nets in memory."""
    how: str
    """The sum in words."""


PUBLISHED: dict[str, tuple[str, dict[str, Any], Authors]] = {
    "esd": (
        "released-sd-2025",
        {},
        Authors(200 * (2 * DEPTH + 3 + 1), 2, "200 x (sampling, 3 teacher, 1 student)"),
    ),
    "concept_ablation": (
        "paper-sd14-style",
        {"teacher": "frozen"},
        Authors(1000 * 25 * 2 + 100 * 16, 1, "1000 pictures of 25 steps, 100 x 16"),
    ),
    "doco": (
        "paper-sd14-object",
        {"draws": 4},
        Authors(1000 * 25 * 2 + 2000 * 24, 2, "1000 pictures of 25 steps, 2000 x (16 + 8)"),
    ),
    "ant": (
        "paper-sd14-content",
        {},
        Authors((250 + 200) * (138 + 6 + 2), 2, "(250 + 20 maps x 10) x (sampling twice, 8)"),
    ),
    "trce_vision": (
        "paper-sd14-unsafe-list",
        {},
        Authors(230_000 + 900 * 13, 3, "300 + 2000 whole trajectories, 900 x 13"),
    ),
    "spm": (
        "paper-sd14",
        {"latents": "base"},
        Authors(3000 * 52, 1, "3000 x (sampling 30, 4 teacher, 2 student, 16 for anchors)"),
    ),
    "advunlearn": (
        "pooled-sd14",
        {"warm_up": 0},
        Authors(
            800 * 30 * (2 * DEPTH + 3) + 1000 * ((2 * DEPTH + 3) + 5 * (2 * DEPTH + 2)),
            2,
            "800 attacks of 30 x (sampling, 3), 1000 x (sampling, 3, 5 kept x (sampling, 2))",
        ),
    ),
}
"""Method, preset, what makes it use the pool, and the authors' account; from the
notes on their code. All but One and RealEra published none."""


def run() -> None:
    """Counts, and writes the table."""
    sizes = _sd15()
    rows = {}
    for name, (preset, pool, authors) in PUBLISHED.items():
        method = build("methods", name, preset=preset, **pool)
        once, each = _counted(method)
        ours = once + each * method.steps
        copies = _copies(method, sizes)
        rows[name] = {
            "preset": preset,
            "steps": method.steps,
            "once": once,
            "each_step": each,
            "evaluations": ours,
            "authors_evaluations": authors.evaluations,
            "authors_account": authors.how,
            "fewer": authors.evaluations / ours,
            "networks": copies,
            "authors_networks": authors.networks,
            "memory_ratio": copies / authors.networks,
        }
        print(
            f"{name:18} {ours:8.0f} of {authors.evaluations:8.0f}: "
            f"{authors.evaluations / ours:5.1f} x fewer; {copies:.2f} of {authors.networks} U-Nets"
        )
    record = {"command": "python -m benchmarks cost", "rows": rows}
    write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())


def _counted(method: Any) -> tuple[float, float]:
    """Gives the evaluations that a run takes once, and those that each step takes."""
    pipe = tiny_pipeline()
    wanted = request("pistol", anchor="lamp", keep=["cat"])
    counts = []
    # Maps and the discriminator's warm-up are part of what is taken once.
    for steps in (1, 3):
        generator = torch.Generator().manual_seed(0)
        found = replace(method, steps=steps).erase(pipe, wanted, generator=generator)
        counts.append(found.diagnostics["network_evaluations"])
    each = (counts[1] - counts[0]) / 2
    return counts[0] - each, each


def _sd15() -> Any:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    with torch.device("meta"):
        return SimpleNamespace(
            unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
            text_encoder=CLIPTextModel(text),
        )


def _copies(method: Any, model: Any) -> float:
    """Gives the U-Net and what is kept or trained beside it, in U-Nets."""
    whole = sum(weight.numel() for weight in model.unet.parameters())
    trainable = method.trainable()
    layers = method.chosen(model).values()
    if trainable.rank:
        beside = sum(trainable.rank * (len(weight) + weight[0].numel()) for weight in layers)
    else:
        beside = sum(weight.numel() for weight in layers)
    return float(1 + beside / whole)
