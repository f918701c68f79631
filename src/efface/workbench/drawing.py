"""Same-seed pictures from a pipeline, and PNG files that appear whole."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadRequest
from efface.printable import is_text
from efface.workbench.models import is_bundled

if TYPE_CHECKING:
    from PIL.Image import Image

    from efface.contracts import Guide, Monitor
    from efface.guiding.drawing import Guided

__all__ = [
    "Sampling",
    "Shot",
    "check_drawing",
    "draw",
    "draw_guided",
    "guidance_note",
    "is_drawn",
    "sampling_for",
    "write_png",
]

_BATCH = 4
_MOST_STEPS = 1000
"""Steps that schedules are trained with; no more can be taken."""
_NOTE = ("Software", "efface")
"""What tells pictures of efface from others."""
_SEEDS = range(-(2**63), 2**64)
"""Seeds that a generator takes."""


@dataclass(frozen=True)
class Shot:
    """One picture: a prompt and the seed of its first noise."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn."""

    steps: int
    guidance: float


def sampling_for(
    model: str, *, steps: int | None = None, guidance: float | None = None
) -> Sampling:
    """Gives the usual sampling of a model, with what the user set.

    Raises:
        BadRequest: see `check_drawing`.
    """
    usual = _bundled() if is_bundled(model) else Sampling(50, 7.5)
    chosen = Sampling(
        usual.steps if steps is None else steps, usual.guidance if guidance is None else guidance
    )
    check_drawing((), chosen)
    return chosen


def check_drawing(shots: Sequence[Shot], sampling: Sampling) -> None:
    """Refuses what no model draws, before one is loaded.

    Raises:
        BadRequest: steps, guidance or a seed is out of range.
    """
    if not 1 <= sampling.steps <= _MOST_STEPS:
        raise BadRequest(
            f"steps is {sampling.steps}; a picture needs at least one, and schedules have up to "
            f"{_MOST_STEPS}"
        )
    if not math.isfinite(sampling.guidance):
        raise BadRequest(f"guidance is {sampling.guidance}; give a number, such as 7.5")
    if unread := [shot.prompt for shot in shots if not is_text(shot.prompt)]:
        raise BadRequest(f"the prompt {unread[0]!a} holds bytes that are not text; write UTF-8")
    if odd := [shot.seed for shot in shots if shot.seed not in _SEEDS]:
        raise BadRequest(f"the seed is {odd[0]}; give a whole number of at most 64 bits")


def _bundled() -> Sampling:
    from efface.bundled import suites

    return Sampling(suites.STEPS, suites.GUIDANCE)


def draw(pipe: Any, shots: Sequence[Shot], sampling: Sampling, monitor: Monitor) -> list[Image]:
    """Draws the shots in order; the monitor hears of every batch.

    Each picture has its own CPU generator, so it does not depend on which others are drawn.
    """
    from PIL.Image import fromarray

    from efface.contracts import Sample
    from efface.evaluation import drawing

    _check_schedule(pipe, shots, sampling)
    samples = [Sample(shot.prompt, shot.seed, "general") for shot in shots]
    pictures: list[Image] = []
    for first in range(0, len(samples), _BATCH):
        batch = samples[first : first + _BATCH]
        drawn = drawing.draw(pipe, batch, steps=sampling.steps, guidance=sampling.guidance)
        pictures += [fromarray(pixels) for pixels in drawn.pixels]
        monitor(len(pictures) - 1, len(samples), {})
    return pictures


def draw_guided(
    pipe: Any,
    shots: Sequence[Shot],
    sampling: Sampling,
    monitor: Monitor,
    *,
    guides: Sequence[Guide],
) -> list[Guided]:
    """Draws the shots with guides, as `draw` does; gives what each batch gave."""
    from efface.guiding import drawing

    _check_schedule(pipe, shots, sampling)
    parts: list[Guided] = []
    for first in range(0, len(shots), _BATCH):
        batch = [(shot.prompt, shot.seed) for shot in shots[first : first + _BATCH]]
        steps, guidance = sampling.steps, sampling.guidance
        parts.append(drawing.draw(pipe, guides, batch, steps=steps, guidance=guidance))
        monitor(first + len(batch) - 1, len(shots), {})
    return parts


def guidance_note(pipe: Any, sampling: Sampling) -> str | None:
    """Says what became of the scale of guidance where it is not classifier-free."""
    from efface.evaluation import drawing

    return drawing.guidance_note(pipe, sampling.guidance)


def _check_schedule(pipe: Any, shots: Sequence[Shot], sampling: Sampling) -> None:
    check_drawing(shots, sampling)
    trained = getattr(pipe.scheduler.config, "num_train_timesteps", None) or _MOST_STEPS
    if sampling.steps > trained:
        raise BadRequest(f"steps is {sampling.steps}; this model's schedule has {trained}")


def is_drawn(path: Path) -> bool:
    """Says whether a file is a picture that `write_png` wrote."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(200)
    return start.startswith(b"\x89PNG") and b"\0".join(each.encode() for each in _NOTE) in start


def write_png(picture: Image, path: Path) -> None:
    """Writes a PNG in one step."""
    from PIL.PngImagePlugin import PngInfo

    from efface.files import write_atomically

    note = PngInfo()
    note.add_text(*_NOTE)
    content = io.BytesIO()
    picture.save(content, format="PNG", pnginfo=note)
    write_atomically(path, content.getvalue())
