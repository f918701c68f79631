"""Pictures that were recognised, with what they were called written under them, for reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from efface.contracts import Sample
from efface.evaluation.images import ImageStore, Source
from efface.files import write_atomically

__all__ = ["write_captioned"]

_SIDE, _LINE = 128, 16


def write_captioned(
    store: ImageStore,
    read: Callable[[int], Float[Tensor, "3 h w"]],
    samples: Sequence[Sample],
    most: int,
    answers: Mapping[Source, Sequence[str]],
) -> None:
    """Writes some pictures of each role, evenly over its classes.

    Args:
        store: where they go, named as drawn pictures are.
        read: gives the picture of the sample of a number, 0 to 1.
        samples: what was looked at.
        most: pictures a role.
        answers: what each was called, by who called it so.
    """
    for number in _chosen(samples, most):
        picture = read(number)
        for source, said in answers.items():
            path = store.path(source, samples[number])
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _png(picture, said[number]))


def _chosen(samples: Sequence[Sample], most: int) -> list[int]:
    """Takes one picture of each class in turn, role by role."""
    found: list[int] = []
    for role in dict.fromkeys(sample.role for sample in samples):
        by_class: dict[str, list[int]] = {}
        for number, sample in enumerate(samples):
            if sample.role == role:
                by_class.setdefault(sample.prompt, []).append(number)
        by_class = {name: _spread(own, most) for name, own in by_class.items()}
        rounds = max(map(len, by_class.values()))
        order = [
            own[turn] for turn in range(rounds) for own in by_class.values() if turn < len(own)
        ]
        found += order[:most]
    return found


def _spread(places: list[int], most: int) -> list[int]:
    """Takes at most so many, evenly, since pictures that follow one another are alike."""
    step = max(1, len(places) // most)
    return places[::step][:most]


def _png(picture: Float[Tensor, "3 h w"], caption: str) -> bytes:
    import io

    levels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    inner = _SIDE - _LINE
    small = Image.fromarray(levels).resize((inner, inner), Image.Resampling.NEAREST)
    whole = Image.new("RGB", (_SIDE, _SIDE), "white")
    whole.paste(small, (_LINE // 2, 0))
    ImageDraw.Draw(whole).text((3, inner + 2), caption[:21], fill="black")
    buffer = io.BytesIO()
    whole.save(buffer, format="PNG")
    return buffer.getvalue()
