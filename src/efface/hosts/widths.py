"""Whether a denoiser reads as many values of text as its encoders give, from shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from efface.errors import BadModel
from efface.hosts.components import TEXT_KEYS

__all__ = ["Encoder", "check_widths"]

_TOKENS = {
    "sd1": TEXT_KEYS["unet/key_value"],
    "sd2": TEXT_KEYS["unet/key_value"],
    "sdxl": TEXT_KEYS["unet/key_value"],
    "sd3": TEXT_KEYS["transformer/text_tokens"],
    "flux": TEXT_KEYS["transformer/text_tokens"],
    "pixart": re.compile(r"^caption_projection\.linear_1\.weight$"),
}
"""What reads the rows of tokens, by family."""


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
        family: a key of `efface.hosts.architectures.FAMILIES`; others are not checked.
        shapes: of the denoiser's weights, by canonical path.
        encoders: all of the model.

    Raises:
        BadModel: they differ, with both widths; encoders and denoiser are of different models.
    """
    if family not in _TOKENS:
        return
    given = {encoder.name: encoder for encoder in encoders}
    for path, reads, gives, exactly in _readers(family, shapes, given):
        if reads < gives or (exactly and reads != gives):
            raise BadModel(
                f"{path} reads {reads} values and the text encoders ({', '.join(given)}) give "
                f"{gives}; encoders and denoiser are of different models, copy the model again"
            )


def _readers(
    family: str, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Encoder]
) -> Iterator[tuple[str, int, int, bool]]:
    """Lists weights that read text: path, inputs, values given, whether both must be equal."""
    widths = {name: encoder.width for name, encoder in given.items()}
    pooled = {name: encoder.pooled_width for name, encoder in given.items()}
    clips = sum(widths.get(name, 0) for name in ("text_encoder", "text_encoder_2"))
    tokens = {
        "sdxl": clips,
        "sd3": widths.get("text_encoder_3", clips),
        "flux": widths.get("text_encoder_2", 0),
    }.get(family, widths.get("text_encoder", 0))
    filled = family == "sd3" and "text_encoder_3" not in widths
    rows = {
        "unet/pooled_text": pooled.get("text_encoder_2", 0),
        "transformer/pooled_text": pooled.get("text_encoder", 0)
        + (pooled.get("text_encoder_2", 0) if family == "sd3" else 0),
    }
    for path, shape in shapes.items():
        if _TOKENS[family].search(path):
            yield path, shape[1], tokens, not filled
        for key, gives in rows.items():
            if TEXT_KEYS[key].search(path):
                # That of SD XL reads the picture's size too.
                yield path, shape[1], gives, key != "unet/pooled_text"
