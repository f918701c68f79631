"""The third bundled model: the first one, with a text encoder that understands descriptions.

It draws a pistol for "thing that fires bullets", which the first one does not: low-rank layers
beside the linear layers of the text encoder learned the vocabulary's descriptions. No erasure is
given any of them, so they are implicit prompts to measure it on, as TRCE's paper does with I2P.
"""

from __future__ import annotations

from typing import Any

from efface.bundled import (
    JUDGE,
    PRESET,
    keep_concepts,
    pipeline_folder,
    plainly_understood,
    understood,
)
from efface.bundled.layers import add_layers

__all__ = [
    "JUDGE",
    "PRESET",
    "finish",
    "keep_concepts",
    "pipeline_folder",
    "plainly_understood",
    "understood",
]


def finish(pipe: Any) -> None:
    """Turns the first bundled model, just loaded, into this one.

    Raises:
        BadModel: the package was installed without its weights.
    """
    add_layers(pipe, "reader")
