"""The labelled pictures of erased prompts: which they are, and how to draw them again.

    python -m benchmarks.leftover_pictures [BLOCK ...]

draws them all, twice: by the unedited model and after the erasure. It writes the sheets that
labels were read from under ``runs/.leftovers`` (the picture after the erasure, beside it the same
prompt and seed before), without any judge's answer. What somebody saw is in
``results/leftover/labels.json``, by the key of a picture.

Parts have nouns of their own: a threshold is set on the first and measured on the others.
Erasures are closed forms and methods that train. Besides whole edits there are scaled ones and
short trainings, which leave something more often.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import efface
from benchmarks.erasure import PICTURES
from efface.bundled import understood
from efface.bundled.suites import GUIDANCE, STEPS
from efface.bundled.vocabulary import HELD_OUT, STYLES, concept, prompt
from efface.bundled.wordings import EVALUATION_STYLED
from efface.contracts import Sample
from efface.deltas.delta import Delta
from efface.evaluation.identity import fingerprints, model_id
from efface.evaluation.images import ImageStore, Source
from efface.registry import build

FOLDER = PICTURES.parent / ".leftovers"
LABELS = Path(__file__).parent / "results" / "leftover" / "labels.json"
PARTS: dict[str, tuple[str, ...]] = {
    "tuning": ("pistol", "cat", "guitar", "car", "castle", "santa"),
    "held-out": ("knife", "frog", "umbrella", "rocket", "apple", "ninja"),
    "confirming": ("bomb", "pizza", "crown", "octopus", "sailboat", "penguin"),
}
"""Nouns of each part; pictures of the last were drawn and labelled after the threshold was set."""
CLOSED = ("uce", "rece", "trce", "realera")
SCALES = (1.0, 0.7, 0.5)
TRAINED: dict[str, tuple[int, ...]] = {"esd": (60,), "spm": (150,), "ant": (60,), "doco": (200,)}
"""Methods that train and their numbers of steps; fewer than the preset's leave more."""
TRAINED_NOUNS = ("pistol", "frog")
ALWAYS = ("neon", "blueprint")
"""Styles that every erasure is drawn in; the others take turns."""
OTHERS = tuple(style for style in STYLES if style not in ALWAYS)
TURN = 2
"""Other styles an erasure."""
CELL, COLUMNS, ROWS = 96, 8, 10


@dataclass(frozen=True)
class Trial:
    """One erasure, at a share of its strength or with a number of training steps."""

    noun: str
    method: str
    scale: float = 1.0
    steps: int | None = None

    @property
    def name(self) -> str:
        """Names the erasure in keys: method, steps of training if any, share if not 1."""
        steps = "" if self.steps is None else f"-{self.steps}"
        return f"{self.method}{steps}" + ("" if self.scale == 1 else f"x{self.scale:g}")


@dataclass(frozen=True)
class Picture:
    """A picture after an erasure."""

    trial: Trial
    sample: Sample

    @property
    def key(self) -> str:
        """Names it by the erasure and the sample's id."""
        return f"{self.trial.noun}/{self.trial.name}/{self.sample.id}"

    @property
    def style(self) -> str:
        """The style that its prompt asks for."""
        return self.sample.style.name if self.sample.style else ""


def trials() -> tuple[Trial, ...]:
    """Lists the erasures, in an order that only grows at its end."""
    first, last = (*PARTS["tuning"], *PARTS["held-out"]), PARTS["confirming"]
    closed = [Trial(n, m, scale) for n in first for m in CLOSED for scale in SCALES]
    trained = [
        Trial(n, m, steps=steps) for n in TRAINED_NOUNS for m in TRAINED for steps in TRAINED[m]
    ]
    more = [Trial(n, m, scale) for n in last for m in CLOSED for scale in SCALES]
    return (*closed, *trained, *more)


def pictures() -> Iterator[Picture]:
    """Lists all pictures: both named styles and some others, with seeds that no suite uses."""
    for place, trial in enumerate(trials()):
        shown = [*ALWAYS, *(OTHERS[(TURN * place + i) % len(OTHERS)] for i in range(TURN))]
        if trial.steps is not None:
            shown = list(STYLES)
        if trial.noun in PARTS["confirming"]:
            shown = list(ALWAYS)
        for turn, style in enumerate(shown):
            if (trial.noun, style) in HELD_OUT:
                continue
            template = EVALUATION_STYLED[(place + turn) % len(EVALUATION_STYLED)]
            text = prompt(template, trial.noun, style=STYLES[style].wording)
            named = concept(trial.noun)
            yield Picture(trial, Sample(text, 100 + place % 4, "erased", named, concept(style)))


class Drawer:
    """Makes the erasures and draws; pictures that were drawn before are read."""

    def __init__(self) -> None:
        self.pipe = efface.load("emoji")
        self.store = ImageStore(PICTURES, batch_size=16)
        self.model = model_id(self.pipe, fingerprints(self.pipe))
        self._made: dict[Trial, Delta] = {}

    def before(self, some: Sequence[Picture]) -> Tensor:
        """Gives the unedited model's pictures of the same prompts and seeds."""
        source = Source(self.model, None, STEPS, GUIDANCE)
        samples = [one.sample for one in some]
        self.store.fill(self.pipe, source, [*dict.fromkeys(samples)])
        return self.store.load(source, samples)

    def after(self, some: Sequence[Picture]) -> Tensor:
        """Gives the pictures after their erasures, in the order of the pictures."""
        found: dict[Picture, Tensor] = {}
        for trial in dict.fromkeys(one.trial for one in some):
            mine = [one for one in some if one.trial == trial]
            delta = self.delta(trial)
            source = Source(self.model, delta.id, STEPS, GUIDANCE)
            samples = [one.sample for one in mine]
            if self.store.missing(source, samples):
                with delta.apply(self.pipe):
                    self.store.fill(self.pipe, source, samples)
            found |= dict(zip(mine, self.store.load(source, samples), strict=True))
        return torch.stack([found[one] for one in some])

    def delta(self, trial: Trial) -> Delta:
        """Makes an erasure, once; weaker ones are the whole one, scaled."""
        whole = replace(trial, scale=1.0)
        if whole not in self._made:
            print(whole, flush=True)
            settings = {} if trial.steps is None else {"steps": trial.steps}
            method = build("methods", trial.method, preset="emoji", **settings)
            request = understood(efface.request(trial.noun))
            self._made[whole] = efface.erase(self.pipe, request, method=method).delta
        return self._made[whole].scaled(trial.scale)


def sheets(some: Sequence[Picture], after: Tensor, before: Tensor, folder: Path) -> None:
    """Writes contact sheets with the running number of each picture."""
    folder.mkdir(parents=True, exist_ok=True)
    size = COLUMNS * ROWS
    for start in range(0, len(some), size):
        wide, high = 2 * CELL + 8, CELL + 16
        sheet = Image.new("RGB", (COLUMNS * wide, ROWS * high), "white")
        pen = ImageDraw.Draw(sheet)
        for place in range(start, min(start + size, len(some))):
            row, column = divmod(place - start, COLUMNS)
            x, y = column * wide, row * high
            pen.text((x, y + 2), f"{place} {some[place].trial.noun}", fill="black")
            for shift, images in ((0, after), (CELL, before)):
                pixels = (images[place].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
                shown = Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.BICUBIC)
                sheet.paste(shown, (x + shift, y + 14))
        sheet.save(folder / f"sheet_{start // size:02d}.png")


def shuffled(some: Sequence[Picture]) -> list[Picture]:
    """Gives pictures in the order of the sheets, so that neighbours do not give a label away."""
    generator = torch.Generator().manual_seed(7)
    return [some[place] for place in torch.randperm(len(some), generator=generator).tolist()]


def blocks() -> dict[str, list[Picture]]:
    """Gives pictures by part and by whether the method trains, each in the order of its sheets."""
    found: dict[str, list[Picture]] = {}
    for one in pictures():
        part = next(part for part, nouns in PARTS.items() if one.trial.noun in nouns)
        kind = "closed" if one.trial.steps is None else "trained"
        found.setdefault(f"{part}-{kind}", []).append(one)
    return {name: shuffled(some) for name, some in found.items()}


def drawn(block: str, drawer: Callable[[], Drawer]) -> dict[str, Tensor]:
    """Gives a block's pictures "before" and "after"; what was drawn before is read."""
    path, some = FOLDER / block / "pictures.safetensors", blocks()[block]
    keys = {"keys": " ".join(one.key.replace(" ", "_") for one in some)}
    if path.exists():
        with safe_open(path, framework="pt") as file:
            if file.metadata() == keys:
                return {name: file.get_tensor(name) for name in ("before", "after")}
    artist = drawer()
    found = {"before": artist.before(some), "after": artist.after(some)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(found, path, metadata=keys)
    return found


def main() -> None:
    """Draws everything, or the blocks that are named, and writes sheets."""
    torch.set_num_threads(1)
    drawer = cache(Drawer)
    for block in sys.argv[1:] or blocks():
        found = drawn(block, drawer)
        sheets(blocks()[block], found["after"], found["before"], FOLDER / block)


if __name__ == "__main__":
    main()
