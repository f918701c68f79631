"""Real classes at toy size: a Stable Diffusion pipeline in an instant, without any file."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn

__all__ = [
    "LENGTH",
    "WORDS",
    "autoencoder",
    "filled",
    "tiny_stable_diffusion",
    "tiny_tokenizer",
]

WORDS: tuple[str, ...] = (
    *("a", "an", "and", "art", "by", "of", "in", "with", "the", "style", "red", "green"),
    *("cat", "dog", "tree", "field", "church", "house", "chair", "lamp", "emoji"),
    *("pistol", "revolver", "knife", "van", "gogh", "monet"),
    *("image", "painting", "photo", "picture", "portrait"),
)
"""Words that are one token; any other text falls into letters."""

LENGTH = 24
"""Tokens that the toy text encoder reads; real ones read 77."""


def tiny_stable_diffusion(
    layout: Literal["sd1", "sd2"] = "sd1", *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Any:
    """Builds a ``StableDiffusionPipeline`` with random weights in the layout of SD 1.x or 2.x.

    The layouts differ as the real ones do: quick GELU and padding with the end token in 1.x; GELU,
    padding with another token, linear projections and a fixed head width in 2.x, whose text encoder
    is used up to its last but one layer simply by having been saved without the last.

    Args:
        layout: ``sd1`` or ``sd2``.
        seed: decides every weight; the global random state is not touched.
        dtype: of all networks.
    """
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    tokenizer = tiny_tokenizer(pad="<|endoftext|>" if layout == "sd1" else "!")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        networks = {
            "text_encoder": _text_encoder(tokenizer, layout),
            "vae": autoencoder(),
            "unet": _denoiser(layout),
        }
    for network in networks.values():
        filled(network, generator)
        network.eval()
        if dtype != torch.float32:
            network.to(dtype)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        **networks,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_tokenizer(*, pad: str = "<|endoftext|>", length: int = LENGTH) -> Any:
    """Builds a ``CLIPTokenizer`` that knows `WORDS` and spells everything else in bytes."""
    from transformers import CLIPTokenizer

    letters = _byte_letters()
    merges = _merges(WORDS)
    symbols = [*letters, *(letter + "</w>" for letter in letters), *("".join(m) for m in merges)]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=length)


def _byte_letters() -> list[str]:
    """Lists the 256 letters that stand for bytes in CLIP's vocabulary, printable ones first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [chr(256 + number) for number in range(256 - len(printable))]
    return [chr(byte) for byte in printable] + shifted


def _merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Spells each word as a chain of merges on top of those that earlier words brought."""
    chain: dict[tuple[str, str], None] = {}
    for word in words:
        parts = _merged([*word[:-1], word[-1] + "</w>"], list(chain))
        left = parts[0]
        for right in parts[1:]:
            chain[left, right] = None
            left += right
    return list(chain)


def _merged(parts: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Applies merges as byte-pair encoding does: always the earliest one that fits."""
    while fitting := [pair for pair in merges if pair in pairwise(parts)]:
        at = list(pairwise(parts)).index(fitting[0])
        parts = [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]
    return parts


def _text_encoder(tokenizer: Any, layout: str) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder: nn.Module = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            hidden_act="quick_gelu" if layout == "sd1" else "gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return encoder


def autoencoder() -> nn.Module:
    """Builds an ``AutoencoderKL`` of factor 2 with four latent channels."""
    from diffusers import AutoencoderKL

    autoencoder: nn.Module = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    return autoencoder


def _denoiser(layout: str) -> nn.Module:
    from diffusers import UNet2DConditionModel

    denoiser: nn.Module = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=32,
        # In 1.x this is the number of heads; in 2.x a list, so that the width per head is fixed.
        attention_head_dim=4 if layout == "sd1" else (2, 4),
        use_linear_projection=layout == "sd2",
    )
    return denoiser


def filled(network: nn.Module, generator: torch.Generator) -> None:
    """Fills matrices and kernels with normal values of variance 1 / inputs.

    Biases that layers draw for themselves are drawn again, so that they depend on the seed too; the
    rest stays.
    """
    biases = torch.Generator().manual_seed(generator.initial_seed() + 1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(drawn / parameter[0].numel() ** 0.5)
            elif len(parameter.unique()) > 1:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=biases))
