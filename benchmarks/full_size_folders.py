"""Makes model folders of the true sizes, filled with random weights, for `benchmarks/full_size.py`.

    python -m benchmarks.full_size_folders sd15 FOLDER      about 2.7 GB
    python -m benchmarks.full_size_folders sdxl FOLDER      about 6.9 GB
    python -m benchmarks.full_size_folders flux FOLDER      about 11 GB, see below

Every network has the shapes of its public config (written by hand below) in float16, in shards
with an index where the published files have them. The tensors are drawn and written one at a time,
so making a folder needs as much memory as its largest tensor. Weights are normal with variance one
over the number of inputs, so that what the text encoders give is finite and depends on the prompt.

FLUX.1 has its true widths everywhere and both text encoders in full depth (T5 of width 4096 with 24
layers). Its transformer has 2 double and 2 single blocks in place of 19 and 38, since no block is
read when text projections are edited and 24 GB would be written for nothing.

The tokenizers are the package's toy ones: they give few, valid ids, and time and memory depend on
the number of tokens alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from efface.hosts.toys import WORDS, tiny_tokenizer

CLIP_LENGTH = 77
T5_LENGTH = 512
SHARD_BYTES = 4 * 10**9


@dataclass(frozen=True)
class Part:
    """One network of a folder."""

    library: str
    kind: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """A pipeline: its class, networks, and tokenizers by name."""

    pipeline: str
    parts: dict[str, Part]
    tokenizers: dict[str, str] = field(default_factory=lambda: {"tokenizer": "clip"})


CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "vocab_size": 49408,
    "max_position_embeddings": CLIP_LENGTH,
}
CLIP_BIG_G = CLIP_L | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
T5_XXL = {
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_heads": 64,
    "num_layers": 24,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
}
AUTOENCODER = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
SD15_DENOISER = {
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SDXL_DENOISER = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FLUX_DENOISER = {
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "in_channels": 64,
    "guidance_embeds": True,
}

LAYOUTS = {
    "sd15": Layout(
        "StableDiffusionPipeline",
        {
            "text_encoder": Part("transformers", "CLIPTextModel", CLIP_L),
            "unet": Part("diffusers", "UNet2DConditionModel", SD15_DENOISER),
            "vae": Part("diffusers", "AutoencoderKL", AUTOENCODER),
        },
    ),
    "sdxl": Layout(
        "StableDiffusionXLPipeline",
        {
            "text_encoder": Part("transformers", "CLIPTextModel", CLIP_L),
            "text_encoder_2": Part("transformers", "CLIPTextModelWithProjection", CLIP_BIG_G),
            "unet": Part("diffusers", "UNet2DConditionModel", SDXL_DENOISER),
            "vae": Part("diffusers", "AutoencoderKL", AUTOENCODER),
        },
        {"tokenizer": "clip", "tokenizer_2": "clip zero"},
    ),
    "flux": Layout(
        "FluxPipeline",
        {
            "text_encoder": Part("transformers", "CLIPTextModel", CLIP_L),
            "text_encoder_2": Part("transformers", "T5EncoderModel", T5_XXL),
            "transformer": Part("diffusers", "FluxTransformer2DModel", FLUX_DENOISER),
            "vae": Part("diffusers", "AutoencoderKL", AUTOENCODER | {"latent_channels": 16}),
        },
        {"tokenizer": "clip", "tokenizer_2": "t5"},
    ),
}


def make(name: str, folder: Path, *, seed: int = 0) -> None:
    """Writes one folder.

    Args:
        name: one of `LAYOUTS`.
        folder: where; it must not exist.
        seed: decides every weight.
    """
    layout = LAYOUTS[name]
    folder.mkdir(parents=True)
    index: dict[str, Any] = {"_class_name": layout.pipeline, "_diffusers_version": "0.36.0"}
    ids = {}
    for tokenizer, kind in layout.tokenizers.items():
        index[tokenizer], ids[tokenizer] = _tokenizer(folder / tokenizer, kind)
    generator = torch.Generator().manual_seed(seed)
    for part_name, part in layout.parts.items():
        index[part_name] = [part.library, part.kind]
        given = ids.get(part_name.replace("text_encoder", "tokenizer"), {})
        write_network(folder / part_name, part, part.config | given, generator)
    index["scheduler"] = ["diffusers", _scheduler(folder / "scheduler", layout)]
    if name == "sd15":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def _tokenizer(folder: Path, kind: str) -> tuple[list[str], dict[str, int]]:
    """Saves a tokenizer; gives its entry in the index and the ids that the encoder must know."""
    if kind == "t5":
        tokenizer = _t5_tokenizer()
        names = ("eos_token_id", "pad_token_id")
    else:
        pad = "!" if kind == "clip zero" else "<|endoftext|>"
        tokenizer = tiny_tokenizer(pad=pad, length=CLIP_LENGTH)
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
    tokenizer.save_pretrained(folder)
    ids = {name: getattr(tokenizer, name) for name in names}
    return ["transformers", type(tokenizer).__name__], ids


def _t5_tokenizer() -> Any:
    """Builds a T5 tokenizer of the same words; anything else is spelled."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = [(f"▁{word}", -3.0) for word in WORDS]
    letters = [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz0123456789-',."]
    return T5Tokenizer(vocab=special + words + letters, extra_ids=0, model_max_length=T5_LENGTH)


def _scheduler(folder: Path, layout: Layout) -> str:
    import diffusers

    flow = "transformer" in layout.parts
    kind = "FlowMatchEulerDiscreteScheduler" if flow else "DDIMScheduler"
    getattr(diffusers, kind)().save_pretrained(folder)
    return kind


def write_network(
    folder: Path, part: Part, config: dict[str, Any], generator: torch.Generator
) -> None:
    """Writes one network's config and its weights, tensor by tensor."""
    import importlib

    kind = getattr(importlib.import_module(part.library), part.kind)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        if part.library == "diffusers":
            network, stem = kind.from_config(config), "diffusion_pytorch_model"
            network.save_config(folder)
        else:
            written = kind.config_class(**config)
            network, stem = kind(written), "model"
            network.config.architectures = [part.kind]
            network.config.save_pretrained(folder)
    _write_shards(folder, stem, dict(network.named_parameters()), generator)


def _write_shards(
    folder: Path, stem: str, shapes: dict[str, nn.Parameter], generator: torch.Generator
) -> None:
    shards = list(_shards(shapes))
    single = len(shards) == 1
    places = {}
    for number, names in enumerate(shards, start=1):
        ending = "" if single else f"-{number:05d}-of-{len(shards):05d}"
        file = folder / f"{stem}{ending}.safetensors"
        _write_file(file, {name: shapes[name] for name in names}, generator)
        places |= dict.fromkeys(names, file.name)
    if not single:
        total = sum(2 * shape.numel() for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _shards(shapes: dict[str, nn.Parameter]) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        if names and size + 2 * shape.numel() > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += 2 * shape.numel()
    yield names


def _write_file(file: Path, shapes: dict[str, nn.Parameter], generator: torch.Generator) -> None:
    """Writes the format by hand: length of the header, header, tensors back to back."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in sorted(shapes.items()):
        end = at + 2 * shape.numel()
        facts = {"dtype": "F16", "shape": list(shape.shape), "data_offsets": [at, end]}
        header[name], at = facts, end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for name, shape in sorted(shapes.items()):
            opened.write(_drawn(name, tuple(shape.shape), generator).numpy().data)


def _drawn(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(shape) < 2:
        fill = 0.0 if name.endswith("bias") else 1.0
        return torch.full(shape, fill, dtype=torch.float16)
    inputs = torch.Size(shape[1:]).numel()
    return torch.randn(shape, generator=generator).div_(inputs**0.5).half()


def main() -> None:
    """Makes the folder that the command line names."""
    if len(sys.argv) != 3 or sys.argv[1] not in LAYOUTS:
        raise SystemExit(
            f"usage: python -m benchmarks.full_size_folders {'|'.join(LAYOUTS)} FOLDER"
        )
    make(sys.argv[1], Path(sys.argv[2]))


if __name__ == "__main__":
    main()
