"""Measures emoji-scenes against its bars, on fixed seeds.

    python emoji/measure_scenes.py     writes benchmarks/results/emoji_scenes.json
    python emoji/measure_scenes.py --training [--small]      asks the training's average so far,
        single things and pairs in few steps where it is to be small, and writes but a sheet of
        pictures beside it

Pairs of nouns and triples that hold one of them were never shown together in training.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor

import efface
from efface.bundled import pipeline_folder, weights_folder
from efface.bundled.scene_judge import SceneJudge, relation
from efface.bundled.scene_prompts import Wanted, alone, counts, pairs, positions, triples
from efface.bundled.scenes import SIDE, SLOTS, pad_plainly, size_for_scenes
from efface.bundled.suites import GUIDANCE, STEPS
from efface.metrics.estimates import rate
from measure import RESULTS, Figure, tell
from train_scenes import FOLDER, TRAINING

AT_ONCE = 32
SEEDS = {"alone": 2, "styled": 2, "pairs": 4, "styled pairs": 2, "places": 2, "counts": 2} | {
    "three": 4
}
"""Pictures of each prompt."""
FEW_STEPS = 12
"""Sampling steps of a quick look."""


def in_training() -> StableDiffusionPipeline:
    """The pipeline with the average weights of the last checkpoint."""
    pipe = StableDiffusionPipeline.from_pretrained(
        pipeline_folder(), safety_checker=None, torch_dtype=torch.float32
    )
    state = torch.load(TRAINING / "checkpoint.pt", weights_only=True)
    unet: UNet2DConditionModel = pipe.unet
    unet.load_state_dict(state["average"])
    size_for_scenes(pipe)
    pad_plainly(pipe.tokenizer, pipe.text_encoder)
    print("step", state["step"])
    return pipe


def drawn(pipe: Any, wanted: Sequence[Wanted], seeds: int, first: int, steps: int) -> Tensor:
    """Pictures of every prompt under some seeds, prompts together, as 0..1."""
    asked = [(each.prompt, first + 100 * seed) for each in wanted for seed in range(seeds)]
    parts = []
    for start in range(0, len(asked), AT_ONCE):
        part = asked[start : start + AT_ONCE]
        generators = [
            torch.Generator().manual_seed(seed + start + place)
            for place, (_, seed) in enumerate(part)
        ]
        shown = pipe(
            [text for text, _ in part],
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=generators,
            output_type="pt",
        )
        parts.append(shown.images)
    return torch.cat(parts)


def share(found: list[bool], groups: list[str]) -> Any:
    """A rate whose interval knows that pictures of one prompt belong together."""
    return rate(torch.tensor(found, dtype=torch.float32), groups=groups)


def figures(judge: SceneJudge, images: Tensor, wanted: Sequence[Wanted], what: str) -> list[Figure]:
    """All things there; some of them; none; exactly those; and on the right sides."""
    seen, groups = judge.things(images), [each.prompt for each in wanted]
    named = [Counter(one.noun for one in each) for each in seen]
    asked = [Counter(each.nouns) for each in wanted]
    both = list(zip(named, asked, strict=True))
    every = [all(got[noun] >= 1 for noun in need) for got, need in both]
    exact = [got == need for got, need in both]
    table = {"all there": every, "exactly these, each as often": exact}
    if len(asked[0]) > 1:
        number = [sum(got[noun] >= 1 for noun in need) for got, need in both]
        most = len(asked[0])
        for some in range(most):
            table[f"{some} of {most} there"] = [each == some for each in number]
    if wanted[0].place:
        places = []
        for each, ask in zip(seen, wanted, strict=True):
            where = {one.noun: one for one in sorted(each, key=lambda one: one.probability)}
            first, second = where.get(ask.nouns[0]), where.get(ask.nouns[1])
            places.append(bool(first and second and relation(first, second) == ask.place))
        table["all there, on the right sides"] = places
    return [Figure(f"{what}: {name}", share(hits, groups)) for name, hits in table.items()]


def measured(pipe: Any, judge: SceneJudge, *, small: bool) -> tuple[list[Figure], Tensor]:
    """Every figure, and some of the pictures; or single things and pairs only, few and quickly."""
    few = 32 if small else None
    parts = {
        "alone": alone(few or 64, style=False),
        "styled": alone(few or 128, style=True),
        "pairs": pairs(few or 60),
        "styled pairs": pairs(few or 60, style=True),
        "places": positions(few or 64),
        "counts": counts(few or 60),
        "three": triples(few or 30),
    }
    if small:
        parts = {what: parts[what] for what in ("alone", "pairs")}
    found, shown = list[Figure](), list[Tensor]()
    for number, (what, wanted) in enumerate(parts.items()):
        seeds = 1 if small else SEEDS[what]
        images = drawn(pipe, wanted, seeds, 9000 + 1000 * number, FEW_STEPS if small else STEPS)
        every = [each for each in wanted for _ in range(seeds)]
        found += figures(judge, images, every, what)
        shown.append(images[:: max(1, len(images) // 16)][:16])
        tell(found[-len(figures(judge, images[:1], every[:1], what)) :])
    return found, torch.cat(shown)


def sheet(images: Tensor, path: Path, across: int = 4) -> None:
    """All pictures in rows."""
    rows, wide = -(-len(images) // across), SLOTS * SIDE + 2
    canvas = Image.new("RGB", (across * wide, rows * (SIDE + 2)))
    for place, image in enumerate(images):
        levels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        corner = (place % across * wide, place // across * (SIDE + 2))
        canvas.paste(Image.fromarray(levels), corner)
    canvas.save(path)


def barred(found: list[Figure]) -> list[dict[str, Any]]:
    """Figures with the bars: one thing at least 90 %, both of two 45 to 75 %."""
    bars = {"alone: all there": (0.90, None), "styled: all there": (0.90, None)}
    bars |= {"pairs: all there": (0.45, 0.75)}
    rows = []
    for figure in found:
        low, high = bars.get(figure.what, (None, None))
        value = figure.estimate.value
        met = None
        if low is not None:
            met = value >= low and (high is None or value <= high)
        rows.append(asdict(figure) | {"at_least": low, "at_most": high, "met": met})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = in_training() if options.training else efface.load("emoji-scenes")
    pipe.set_progress_bar_config(disable=True)
    judge = SceneJudge()
    found, shown = measured(pipe, judge, small=options.small)
    sheet(shown, FOLDER / "sheet.png")
    if options.training:
        return
    record = {
        "command": "python emoji/measure_scenes.py",
        "steps": STEPS,
        "guidance": GUIDANCE,
        "figures": barred(found),
        "bytes": (weights_folder() / "scenes.safetensors").stat().st_size,
    }
    (RESULTS.parent / "emoji_scenes.json").write_text(json.dumps(record, indent=1) + "\n")
    for row in record["figures"]:
        if row["met"] is False:
            print("MISSED:", row["what"], row["estimate"]["value"])


if __name__ == "__main__":
    main()
