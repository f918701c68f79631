"""What tells a wrecked model from a sound erasure: pictures of other prompts, before and after.

    python -m benchmarks collapse     writes benchmarks/results/collapse.json

Sound erasures by several methods with the bundled model's presets, and wrecks: layers zeroed, noise
added, edits far too strong. For each what `evaluate` looks at (`efface.evaluation.likeness`) and
what the detectors see (`efface.runs.checks`). What has a result is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import efface
from benchmarks.erasure import Bench
from efface.bundled import understood
from efface.bundled.suites import emoji_suite
from efface.deltas.delta import Delta
from efface.deltas.patches import DensePatch, scaled
from efface.deltas.provenance import base_sketch
from efface.errors import EffaceError
from efface.evaluation.drawing import draw
from efface.evaluation.likeness import likeness, roughness, thumbnails
from efface.evaluation.samples import STAYING, in_role
from efface.files import write_atomically
from efface.hosts.components import parameters
from efface.metrics.presence import ask
from efface.runs.checks import inspect

RESULTS = Path(__file__).parent / "results" / "collapse.json"
CONCEPT = "pistol"
SOUND = ("uce", "rece", "trce", "realera", "esd", "spm")
OTHERS = ("cat", "castle")
STRONG = (10, 50)
NOISE = (0.3, 1.0)
ZEROED: dict[str, Callable[[str], bool]] = {
    "output layer zeroed": lambda key: key == "unet/conv_out.weight",
    "keys and values zeroed": lambda key: "attn2.to_k" in key or "attn2.to_v" in key,
    "middle block zeroed": lambda key: key.startswith("unet/mid_block"),
    "first up block zeroed": lambda key: key.startswith("unet/up_blocks.0"),
    "text embeddings zeroed": lambda key: key.startswith("text_encoder") and "embed" in key,
}


class Models:
    """Makes the edits; `efface.erase` refuses most wrecks, so they are made from weights."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self._uce = efface.erase(pipe, CONCEPT, method="uce").delta

    def every(self) -> Iterator[tuple[str, str, Callable[[], Delta]]]:
        """Lists kind, name and what makes each edit."""
        for name, part in ZEROED.items():
            yield (
                "wreck",
                name,
                lambda part=part: self._changed(  # type: ignore[misc]
                    lambda key, weight: torch.zeros_like(weight) if part(key) else None
                ),
            )
        for share in NOISE:
            yield "wreck", f"noise of {share:g} in the U-Net", lambda s=share: self._noisy(s)  # type: ignore[misc]
        for scale in STRONG:
            yield "wreck", f"uce {scale} times", lambda s=scale: self._scaled(s)  # type: ignore[misc]
        for method in SOUND:
            yield "sound", f"{method} {CONCEPT}", lambda m=method: self._erased(m, CONCEPT)  # type: ignore[misc]
        for concept in OTHERS:
            for method in ("uce", "rece"):
                yield "sound", f"{method} {concept}", lambda m=method, c=concept: self._erased(m, c)  # type: ignore[misc]

    def _erased(self, method: str, concept: str) -> Delta:
        return efface.erase(self.pipe, concept, method=method).delta

    def _scaled(self, scale: float) -> Delta:
        patches = {key: scaled(patch, scale) for key, patch in self._uce.patches.items()}
        return replace(self._uce, patches=patches)

    def _noisy(self, share: float) -> Delta:
        generator = torch.Generator().manual_seed(0)

        def noisy(key: str, weight: Tensor) -> Tensor | None:
            if not key.startswith("unet") or weight.ndim < 2:
                return None
            return weight + share * weight.std() * torch.randn(weight.shape, generator=generator)

        return self._changed(noisy)

    def _changed(self, change: Callable[[str, Tensor], Tensor | None]) -> Delta:
        patches: dict[str, Any] = {}
        for key, weight in parameters(self.pipe):
            new = change(key, weight.detach())
            if new is not None:
                patches[key] = DensePatch(new - weight.detach())
        made = replace(self._uce.provenance, base_sketch=base_sketch(self.pipe, tuple(patches)))
        return replace(self._uce, patches=patches, provenance=made)


def run() -> None:
    """Measures what has no result yet, one line of output each."""
    record: dict[str, Any] = {"command": "python -m benchmarks collapse", "rows": []}
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text())
    known = {row["name"] for row in record["rows"]}
    bench = Bench()
    looks = {concept: _Look(bench, concept) for concept in (CONCEPT, *OTHERS)}
    for kind, name, make in Models(bench.pipe).every():
        if name not in known:
            look = looks.get(name.split()[-1], looks[CONCEPT])
            record["rows"].append({"kind": kind, "name": name, **look.at(make())})
            print(record["rows"][-1], flush=True)
            write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())


class _Look:
    """Draws prompts that must stay with and without an edit, and compares."""

    def __init__(self, bench: Bench, concept: str) -> None:
        self._bench = bench
        self._request = understood(efface.request(concept))
        self._suite = emoji_suite(self._request, size="smoke")
        self._samples = in_role(self._suite.samples, *STAYING)
        self._before = self._drawn()

    def at(self, delta: Delta) -> dict[str, Any]:
        """Gives the row of one edit."""
        with delta.apply(self._bench.pipe):
            after = self._drawn()
        small = thumbnails(self._before), thumbnails(after)
        like = likeness(small, (roughness(self._before), roughness(after)))
        seen = self._seen(after) / max(self._seen(self._before), 1)
        figures = {**asdict(like), "seen": seen, **self._detected(delta)}
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}

    def _drawn(self) -> Tensor:
        made = draw(
            self._bench.pipe,
            self._samples,
            steps=self._suite.steps,
            guidance=self._suite.guidance,
        )
        return torch.from_numpy(made.pixels).permute(0, 3, 1, 2) / 255

    def _seen(self, images: Tensor) -> int:
        judge = self._bench.judge
        found = ask(judge, images, [one.concept for one in self._samples])
        return int((found >= judge.card.threshold).sum())

    def _detected(self, delta: Delta) -> dict[str, Any]:
        try:
            seen = inspect(self._bench.pipe, delta, self._request)
        except EffaceError as error:
            return {"detectors": f"{type(error).__name__}: {error}"}
        return {"kept_response": seen["kept_response"], "probe": seen["probe"]}


if __name__ == "__main__":
    run()
