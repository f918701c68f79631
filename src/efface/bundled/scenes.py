"""The model of scenes: one to three things side by side in a picture of 192 x 64, and how many.

Autoencoder, text encoder and vocabulary are those of the first bundled model; the U-Net was trained
on from it. Prompts are padded with "!", whose row of the encoder's table is replaced by a very
large vector: as in every such encoder, what is added to it on the way is then negligible, and the
final norm gives one constant row, whatever the prompt says. So only the words of a prompt, and the
end behind them, say what to draw, and any pipeline passes that without being told to.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface.bundled import (
    PRESET,
    keep_concepts,
    pipeline_folder,
    plainly_understood,
    understood,
    weights_folder,
)
from efface.errors import BadModel

__all__ = [
    "JUDGE",
    "PADDING",
    "PRESET",
    "SIDE",
    "SLOTS",
    "SUITE",
    "finish",
    "keep_concepts",
    "pad_plainly",
    "pipeline_folder",
    "plainly_understood",
    "understood",
]

JUDGE = "emoji-scenes"
"""Which bundled judge looks at this model's pictures."""
SUITE = "scenes"
"""Which suite measures it."""
SIDE = 64
"""Pixels of a scene's height, and of a slot's width: those of the bundled model's pictures."""
SLOTS = 3
"""Slots of a scene, side by side, each with a thing or empty."""
PADDING = "!"
"""The token that fills a prompt up; as in Stable Diffusion 2."""
_LENGTH = 1000.0
"""Size of the padding's vector: far above all that layers add, and within float16's range."""


def pad_plainly(tokenizer: Any, text_encoder: Any) -> None:
    """Makes the rows after a prompt's end constant: what they are after the empty prompt's end."""
    row = _padding_row(tokenizer, text_encoder)
    tokenizer.pad_token = PADDING
    text_encoder.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        text_encoder.get_input_embeddings().weight[tokenizer.pad_token_id] = row


@torch.no_grad()
def _padding_row(tokenizer: Any, text_encoder: Any) -> Float[Tensor, " dim"]:
    """Gives the vector that the final norm turns into the mean row after the empty prompt."""
    given = tokenizer([""], padding="max_length", return_tensors="pt")
    states = text_encoder(input_ids=given.input_ids).last_hidden_state[0]
    norm = next(each for name, each in text_encoder.named_modules() if "final_layer_norm" in name)
    inside = (states[2:].mean(0) - norm.bias) / norm.weight
    inside = inside - inside.mean()
    direction: Tensor = inside / inside.square().mean().sqrt()
    return _LENGTH * direction


def finish(pipe: Any) -> None:
    """Turns the first bundled model, just loaded, into this one.

    Raises:
        BadModel: the package was installed without its weights.
    """
    from safetensors.torch import load_file

    path = weights_folder() / "scenes.safetensors"
    if not path.exists():
        raise BadModel(
            "emoji-scenes has no weights in this installation; reinstall efface, or rebuild them "
            "with `make -C emoji scenes`"
        )
    pad_plainly(pipe.tokenizer, pipe.text_encoder)
    pipe.unet.load_state_dict(load_file(path))
    size_for_scenes(pipe)


def size_for_scenes(pipe: Any) -> None:
    """Makes scenes the pictures that a pipeline draws when it is told no size."""
    edge = SIDE // pipe.vae_scale_factor
    pipe.unet.register_to_config(sample_size=(edge, SLOTS * edge))
    # Read once when a pipeline is made: whether it is to draw squares.
    pipe._is_unet_config_sample_size_int = False
