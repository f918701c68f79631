"""Guides of sampling: what they cost beside diffusers' own, and what they guard on erased models.

    python -m benchmarks guide_cost     writes benchmarks/results/guide_cost.json
    python -m benchmarks guards         writes benchmarks/results/guards.json
    python -m benchmarks guide_pictures writes docs/images/guides.png, each guide on the same seeds,
                                        and docs/images/attention.png, where words attend

Costs are of one run on one thread: the same prompts and seeds, drawn by our engine and diffusers'
``StableDiffusionPipelineSafe`` and ``SemanticStableDiffusionPipeline`` with the same networks.
Guards are asked to avoid a thing, three of them in turn, on the unedited model and on models that
methods erased it from, with what is to be avoided predicted by the base and by the edited model:
how many pictures of prompts that name it, and of prompts that describe it, still show it, how many
kept pictures still show what they should, and how far these moved from those without the guard
(mean absolute difference of levels, 0 to 1). emoji is asked by name, emoji-reader by descriptions,
which it understands; erasures were given the name alone. What has a row is not measured again;
delete the file to measure anew.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

import efface
from benchmarks.composition import TUNED
from efface.bundled import understood
from efface.bundled.judge import EmojiJudge
from efface.bundled.suites import GUIDANCE, STEPS, emoji_suite
from efface.contracts import Guide, Sample
from efface.files import write_atomically
from efface.guiding.drawing import draw, guide
from efface.guiding.watching import watched
from efface.reports.attention import attention_figure

__all__ = ["costs", "guards", "pictures"]

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "guides.png"
ATTENTION = PICTURE.with_name("attention.png")
PROMPT, SEED = "a cat and an apple", 0
CONCEPT, PICTURES, KEPT = "pistol", 12, 12
GUARDED = (CONCEPT, "cat", "castle")
ROLES = {"emoji": ("erased", "kept"), "emoji-reader": ("paraphrase", "kept")}
"""What each model is asked; the first does not know descriptions."""
METHODS = {"emoji": ("uce", "uce at half", "esd"), "emoji-reader": ("uce", "esd")}
"""What erased; at half its delta's scale, an erasure leaves something for guards to keep out."""
GUARDS = ("negative", "sld medium", "sega", "nag", "safree")
LAYOUTS = ("cat=0,0,0.5,1", "apple=0.5,0,1,1")
LED: dict[str, tuple[str, dict[str, Any]]] = {
    "no guide": ("", {}),
    "attend_and_excite": ("attend_and_excite", {}),
    "a_star": ("a_star", {}),
    "a_star, 10 times the step": ("a_star", {"step_size": 200.0}),
    "a_star, 10 times, layouts": ("a_star", {"step_size": 200.0, "layouts": LAYOUTS}),
}
"""Rows of the figure of attention, on the model that draws several things."""
WITHOUT_BRANCH = ("safree",)
"""Guards that predict nothing for the concept."""


def guarding(name: str, concept: str) -> tuple[str, dict[str, Any]]:
    """Gives the guide that a guard is, and its settings, against a concept."""
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "negative": ("negative", {"text": concept}),
        "sld medium": ("sld", {"preset": "medium", "concepts": (concept,)}),
        "sega": ("sega", {"remove": (concept,)}),
        "nag": ("nag", {"text": concept}),
        "safree": ("safree", {"concepts": (concept,)}),
    }
    return found.get(name, ("", {}))


def costs() -> None:
    """Measures every guide once, and diffusers' own code where it has the guide."""
    torch.set_num_threads(1)
    pipe = efface.load("emoji")
    pipe.set_progress_bar_config(disable=True)
    shots = [(one.prompt, one.seed) for one in _samples("erased")]
    rows: list[dict[str, Any]] = []
    for name in ("plain", *GUARDS):
        kind, settings = guarding(name, CONCEPT)
        guides = [guide(kind, **settings)] if kind else []
        drawn = draw(pipe, guides, shots, steps=STEPS, guidance=GUIDANCE)
        row = {"guide": name, "by": "efface", "evaluations": drawn.evaluations}
        rows.append({**row, "seconds": round(drawn.seconds, 3)})
        print(rows[-1], flush=True)
        if name in _THEIRS:
            seconds, evaluations = _timed(pipe, _THEIRS[name], shots)
            row = {"guide": name, "by": "diffusers", "evaluations": evaluations}
            rows.append({**row, "seconds": round(seconds, 3)})
            print(rows[-1], flush=True)
    record = {"command": "python -m benchmarks guide_cost", "pictures": len(shots), "rows": rows}
    _write("guide_cost", record)


def _timed(
    pipe: Any, ask: Callable[[Any, list[tuple[str, int]]], Any], shots: list[tuple[str, int]]
) -> tuple[float, float]:
    """Gives seconds and network evaluations per picture; loading is not counted."""
    rows = [0]

    def count(_: Any, given: tuple[Any, ...]) -> None:
        rows[0] += len(given[0])

    handle, started = pipe.unet.register_forward_pre_hook(count), time.perf_counter()
    try:
        ask(pipe, shots)
    finally:
        handle.remove()
    return (time.perf_counter() - started) / len(shots), rows[0] / len(shots)


def _common(shots: list[tuple[str, int]]) -> dict[str, Any]:
    return {
        "generator": [torch.Generator().manual_seed(seed) for _, seed in shots],
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "output_type": "np",
    }


def _plain(pipe: Any, shots: list[tuple[str, int]]) -> Any:
    return pipe([prompt for prompt, _ in shots], **_common(shots))


def _negative(pipe: Any, shots: list[tuple[str, int]]) -> Any:
    prompts = [prompt for prompt, _ in shots]
    return pipe(prompts, negative_prompt=[CONCEPT] * len(shots), **_common(shots))


def _parts(pipe: Any) -> dict[str, Any]:
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    unchecked = {"safety_checker": None, "feature_extractor": None}
    return {name: getattr(pipe, name) for name in names} | unchecked


def _safe(pipe: Any, shots: list[tuple[str, int]]) -> Any:
    from diffusers import StableDiffusionPipelineSafe

    made: Any = StableDiffusionPipelineSafe(**_parts(pipe), requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    made.safety_concept = CONCEPT
    medium = {"sld_guidance_scale": 1000, "sld_warmup_steps": 4, "sld_threshold": 0.01}
    medium |= {"sld_momentum_scale": 0.3, "sld_mom_beta": 0.4}
    return made([prompt for prompt, _ in shots], **_common(shots), **medium)


def _semantic(pipe: Any, shots: list[tuple[str, int]]) -> Any:
    from diffusers import SemanticStableDiffusionPipeline

    made: Any = SemanticStableDiffusionPipeline(**_parts(pipe), requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    edits = {"editing_prompt": [CONCEPT], "reverse_editing_direction": True}
    edits |= {"edit_warmup_steps": 4, "edit_threshold": 0.9}
    return made([prompt for prompt, _ in shots], **_common(shots), **edits)


_THEIRS = {"plain": _plain, "negative": _negative, "sld medium": _safe, "sega": _semantic}


def guards() -> None:
    """Measures what is missing, one line of output a row."""
    torch.set_num_threads(1)
    path = RESULTS / "guards.json"
    record: dict[str, Any] = {"command": "python -m benchmarks guards", "rows": []}
    if path.exists():
        record = json.loads(path.read_text())
    keys = ("concept", "model", "erased_by", "guard", "branch")
    known = {tuple(row[key] for key in keys) for row in record["rows"]}
    for model in ROLES:
        pipe = efface.load(model)
        for concept, method in product(GUARDED, ("", *METHODS[model])):
            wanted = [one for one in _ways(method) if (concept, model, method, *one) not in known]
            if not wanted:
                continue
            bench, delta = _Bench(concept, ROLES[model]), None
            if method:
                request = understood(efface.request(concept))
                delta = efface.erase(pipe, request, method=method.partition(" ")[0]).delta
            scale = 0.5 if method.endswith("at half") else 1.0
            with nullcontext() if delta is None else delta.apply(pipe, scale=scale):
                bench.plain = bench.drawn(pipe, [])
                for name, branch in wanted:
                    row = dict(zip(keys, (concept, model, method, name, branch), strict=True))
                    record["rows"].append({**row, **bench.row(pipe, name, branch)})
                    print(json.dumps(record["rows"][-1]), flush=True)
                    _write("guards", record)


def _ways(method: str) -> list[tuple[str, str]]:
    """Lists guards with who predicts for them; without an erasure both branches are one."""
    ways = [("none", "")]
    for name in GUARDS:
        both = bool(method) and name not in WITHOUT_BRANCH
        ways += [(name, branch) for branch in (("unedited", "edited") if both else ("",))]
    return ways


class _Bench:
    """The prompts, the judge, and pictures without guards."""

    def __init__(self, concept: str, roles: Sequence[str]) -> None:
        self.judge, self.concept = EmojiJudge(), concept
        self.samples = {role: _samples(role, concept) for role in roles}
        self.plain: dict[str, Any] = {}

    def drawn(self, pipe: Any, guides: Sequence[Guide]) -> dict[str, Any]:
        """Draws every role's prompts."""
        return {
            role: draw(
                pipe,
                guides,
                [(one.prompt, one.seed) for one in samples],
                steps=STEPS,
                guidance=GUIDANCE,
            )
            for role, samples in self.samples.items()
        }

    def row(self, pipe: Any, name: str, branch: str) -> dict[str, Any]:
        """Draws with a guard and counts what pictures show."""
        found = self.plain
        if name != "none":
            kind, settings = guarding(name, self.concept)
            chosen = {"negative_on": branch} if branch else {}
            found = self.drawn(pipe, [guide(kind, **settings, **chosen)])
        counts = {
            f"{role} shown": f"{self._shown(found[role].pixels, samples)} of {len(samples)}"
            for role, samples in self.samples.items()
        }
        moved = np.abs(found["kept"].pixels.astype(float) - self.plain["kept"].pixels.astype(float))
        unmoved = sum(len(each.unmoved()) for each in found.values())
        return {
            **counts,
            "kept moved": round(float(moved.mean()) / 255, 4),
            "evaluations": found["kept"].evaluations,
            "roles with pictures that did not change": unmoved,
        }

    def _shown(self, pixels: np.ndarray[Any, Any], samples: Sequence[Sample]) -> int:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        seen = [
            float(self.judge.presence(one[None], sample.concept)) >= self.judge.card.threshold
            for one, sample in zip(images, samples, strict=True)
            if sample.concept is not None
        ]
        return sum(seen)


def pictures() -> None:
    """Draws three prompts that name a pistol and three others with every guard, one row each."""
    torch.set_num_threads(1)
    pipe = efface.load("emoji")
    samples = [*_samples("erased")[:3], *_samples("kept")[:3]]
    shots = [(one.prompt, one.seed) for one in samples]
    side, margin = 96, 110
    sheet = Image.new("RGB", (margin + side * len(shots), side * (len(GUARDS) + 1)), "white")
    text = ImageDraw.Draw(sheet)
    for row, name in enumerate(("no guard", *GUARDS)):
        kind, settings = guarding(name, CONCEPT)
        guides = [guide(kind, **settings)] if kind else []
        drawn = draw(pipe, guides, shots, steps=STEPS, guidance=GUIDANCE)
        text.text((8, side * row + side // 2 - 6), name, fill="#1f2430")
        for column, picture in enumerate(drawn.images):
            place = (margin + side * column, side * row)
            sheet.paste(picture.resize((side - 4, side - 4), Image.Resampling.NEAREST), place)
    content = io.BytesIO()
    sheet.quantize(128).save(content, format="PNG", optimize=True)
    write_atomically(PICTURE, content.getvalue())
    _attention()


def _attention() -> None:
    """Draws one prompt of two things with every guide that reads attention, its maps beside it."""
    pipe, words = efface.load("emoji-scenes"), ("cat", "apple")
    drawn = {}
    for row, (kind, settings) in LED.items():
        own = TUNED["emoji-scenes"].get(kind, {}) | settings
        guides = [guide(kind, words=words, **own)] if kind else []
        drawn[row] = watched(
            pipe,
            guides,
            PROMPT,
            words=words,
            seed=SEED,
            steps=STEPS,
            guidance=GUIDANCE,
            shares=(0.25, 0.75),
        )
    attention_figure(drawn, ATTENTION, title=f"{PROMPT}, seed {SEED}", layouts=LAYOUTS)


def _samples(role: str, concept: str = CONCEPT) -> list[Sample]:
    """Takes the first prompts of a role; descriptions are held-out ones of all kinds."""
    size: Any = "implicit" if role == "paraphrase" else "standard"
    suite = emoji_suite(understood(efface.request(concept)), size=size)
    found = [one for one in suite.samples if one.role == role]
    count = KEPT if role == "kept" else PICTURES
    return found[:: max(1, len(found) // count)][:count]


def _write(name: str, record: dict[str, Any]) -> None:
    write_atomically(RESULTS / f"{name}.json", (json.dumps(record, indent=1) + "\n").encode())
