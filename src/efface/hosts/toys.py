"""Parts of toy pipelines: real classes at toy size, in an instant and without any file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn

__all__ = [
    "CLIP_WIDTH",
    "LENGTH",
    "T5_WIDTH",
    "WORDS",
    "autoencoder",
    "built",
    "byte_letters",
    "clip_encoder",
    "filled",
    "merged_words",
    "shifted",
    "t5_encoder",
    "tiny_t5_tokenizer",
    "tiny_tokenizer",
    "with_drawn_biases",
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

CLIP_WIDTH = 32
"""Values per token of each toy CLIP encoder."""
T5_WIDTH = 72
"""Of the toy T5: more than two CLIP encoders side by side, as in the real ones."""


def built(
    make: Callable[[], Any], *, seed: int, dtype: torch.dtype, order: Sequence[str] = ()
) -> Any:
    """Makes a pipeline and gives it random weights.

    Args:
        make: builds the pipeline, with whatever weights.
        seed: decides every weight; the global random state is not touched.
        dtype: of all networks.
        order: in which its networks are filled; by name when left out.
    """
    with torch.random.fork_rng(devices=[]):
        pipeline = make()
    generator = torch.Generator().manual_seed(seed)
    for name in order or sorted(pipeline.components):
        network = getattr(pipeline, name)
        if not isinstance(network, nn.Module):
            continue
        filled(network, generator)
        network.eval()
        if dtype != torch.float32:
            network.to(dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_tokenizer(*, pad: str = "<|endoftext|>", length: int = LENGTH) -> Any:
    """Builds a ``CLIPTokenizer`` that knows `WORDS` and spells everything else in bytes."""
    from transformers import CLIPTokenizer

    letters = byte_letters()
    merges = merged_words([*word[:-1], word[-1] + "</w>"] for word in WORDS)
    symbols = [*letters, *(letter + "</w>" for letter in letters), *("".join(m) for m in merges)]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=length)


def byte_letters() -> list[str]:
    """Lists the 256 letters that stand for bytes in CLIP's vocabulary, printable ones first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [chr(256 + number) for number in range(256 - len(printable))]
    return [chr(byte) for byte in printable] + shifted


def merged_words(spelled: Iterable[Sequence[str]]) -> list[tuple[str, str]]:
    """Makes each spelled word a chain of merges on top of those that earlier words brought."""
    chain: dict[tuple[str, str], int] = {}
    for letters in spelled:
        parts = _merged(list(letters), chain)
        left = parts[0]
        for right in parts[1:]:
            chain.setdefault((left, right), len(chain))
            left += right
    return list(chain)


def _merged(parts: list[str], merges: Mapping[tuple[str, str], int]) -> list[str]:
    """Applies merges as byte-pair encoding does: always the earliest one that fits."""
    while fitting := [pair for pair in pairwise(parts) if pair in merges]:
        at = list(pairwise(parts)).index(min(fitting, key=lambda pair: merges[pair]))
        parts = [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]
    return parts


def tiny_t5_tokenizer() -> Any:
    """Builds a ``T5Tokenizer`` that knows `WORDS` and spells everything else in letters."""
    from transformers import T5Tokenizer

    pieces: list[tuple[str, float]] = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(f"▁{word}", -1.0) for word in WORDS if len(word) > 1 or word == "a"]
    pieces += [(chr(code), -5.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=LENGTH)


def clip_encoder(tokenizer: Any, *, projected: bool) -> nn.Module:
    """Builds a CLIP text encoder of three layers."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=CLIP_WIDTH,
        intermediate_size=64,
        projection_dim=CLIP_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    made: nn.Module = CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)
    return made


def t5_encoder(tokenizer: Any, *, kind: Literal["T5", "UMT5"] = "T5") -> nn.Module:
    """Builds a T5 or UMT5 encoder of two layers."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer),
        d_model=T5_WIDTH,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    made: nn.Module = getattr(transformers, f"{kind}EncoderModel")(config)
    return made


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


def with_drawn_biases(network: nn.Module, generator: torch.Generator) -> None:
    """Fills biases with a tenth of normal values: captions pass some before they are read."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def shifted(vae: Any) -> Any:
    """Gives an autoencoder the shift of its latents, which these families expect."""
    vae.register_to_config(shift_factor=0.1)
    return vae
