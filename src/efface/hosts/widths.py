"""Whether a denoiser reads as many values of text as its encoders give, from shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from efface.errors import BadModel
from efface.hosts.families import HOSTS

__all__ = ["Encoder", "check_widths"]


class Encoder(Protocol):
    """A text encoder's name and what it gives."""

    @property
    def name(self) -> str:
        """Its name in the pipeline."""

    @property
    def width(self) -> int:
        """Values per token."""

    @property
    def pooled_width(self) -> int:
        """Values per prompt."""


def check_widths(
    family: str, shapes: Mapping[str, tuple[int, ...]], encoders: Sequence[Encoder]
) -> None:
    """Compares the inputs of what reads text with what the encoders give.

    Args:
        family: a key of `efface.hosts.families.FAMILIES`; others are not checked.
        shapes: of the denoiser's weights, by canonical path.
        encoders: all of the model.

    Raises:
        BadModel: they differ, with both widths; encoders and denoiser are of different models.
    """
    tokens = {encoder.name: encoder.width for encoder in encoders}
    pooled = {encoder.name: encoder.pooled_width for encoder in encoders}
    reads = [read for h in HOSTS if h.key == family for read in h.widths_read(tokens, pooled)]
    for read in reads:
        for path, shape in shapes.items():
            if not re.search(read.pattern, path):
                continue
            if shape[1] < read.gives or (read.exactly and shape[1] != read.gives):
                raise BadModel(
                    f"{path} reads {shape[1]} values and the text encoders ({', '.join(tokens)}) "
                    f"give {read.gives}; encoders and denoiser are of different models, copy the "
                    "model again"
                )
