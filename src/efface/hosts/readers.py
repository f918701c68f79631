"""The layers of a denoiser that read text, with the streams they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from efface.errors import BadDelta, BadModel
from efface.hosts.components import TEXT_KEYS, canonical, find, key_value_names
from efface.hosts.streams import TextStream

__all__ = ["TextReader", "key_values", "layer_weights", "single_layer", "vector"]


@dataclass(frozen=True)
class TextReader:
    """Weights that read the same rows, so that one map of the rows edits all of them."""

    key: str
    """Key of the patch, which stands for the weights: one of `TEXT_KEYS`."""
    streams: tuple[TextStream, ...]
    """What is read; several when one layer reads rows of different encoders."""
    weights: dict[str, Float[Tensor, "_ dim"]]
    """The weights by path, in the columns that read text; views."""
    inputs: int
    """All columns of the weights; the first ``width`` read text."""

    @property
    def width(self) -> int:
        """Values per row of text."""
        return self.streams[0].width


def key_values(model: Any, stream: TextStream, part: str = "unet") -> TextReader:
    """Finds the keys and values of a denoiser's cross-attention.

    Raises:
        BadModel: there are none, or a layer reads another width (an image adapter, say).
    """
    weights = {path: w.detach() for path, w in key_value_names(getattr(model, part)).items()}
    if not weights:
        raise BadModel("the denoiser has no attn2.to_k or attn2.to_v layer that reads text")
    for path, weight in weights.items():
        if weight.ndim != 2 or weight.shape[1] != stream.width:
            raise BadModel(
                f"{path} has shape {tuple(weight.shape)} and should read {stream.width} values per "
                "token; the text encoder is of another model, or an image adapter or motion module "
                "reads something else there: remove it before erasing"
            )
    return TextReader(f"{part}/key_value", (stream,), weights, stream.width)


def single_layer(
    model: Any, key: str, streams: Sequence[TextStream], *, wider: bool = False
) -> TextReader:
    """Finds the one layer behind a key.

    Args:
        model: the pipeline.
        key: of `TEXT_KEYS`.
        streams: what it reads.
        wider: whether it reads other things beside text, in later columns.

    Raises:
        BadModel: it is missing, or reads another width.
    """
    (path, weight), *_ = layer_weights(model, key).items()
    width = streams[0].width
    if weight.shape[1] < width or (not wider and weight.shape[1] != width):
        raise BadModel(
            f"{key.partition('/')[0]}/{path} has shape {tuple(weight.shape)} and its text encoders "
            f"give {width} values; encoders and denoiser are of different models"
        )
    return TextReader(key, tuple(streams), {path: weight[:, :width]}, weight.shape[1])


def layer_weights(model: Any, key: str) -> dict[str, Tensor]:
    """Gives the weights behind a key of `TEXT_KEYS` by path, detached.

    Raises:
        BadModel: there are none.
    """
    try:
        found = find(model, key)
    except BadDelta as error:
        part, path = key.partition("/")[0], TEXT_KEYS[key].pattern
        raise BadModel(
            f"the {part} has no weight '{path}', which reads text in this family of models"
        ) from error
    return {name.partition("/")[2]: weight.detach() for name, weight in found.items()}


def vector(model: Any, part: str, path: str) -> Float[Tensor, " dim"]:
    """Gives a denoiser's parameter that text passes before the layer that reads it, detached.

    Raises:
        BadModel: it is missing.
    """
    for name, parameter in getattr(model, part).named_parameters():
        if canonical(name) == path:
            found: Tensor = parameter.detach()
            return found
    raise BadModel(f"the {part} has no {path}, which text passes")
