"""A model folder as a host for edits of what reads text; its denoiser is never built."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from efface.errors import BadModel
from efface.hosts.encoders import StreamedEncoder
from efface.hosts.families import check_pipeline
from efface.hosts.folders import check_classes, pipeline_parts
from efface.hosts.libraries import (
    check_configs,
    check_libraries,
    library_class,
    library_errors,
)
from efface.hosts.shards import folder_json, stored_tensors
from efface.plain_values import place

__all__ = ["DENOISERS", "StreamedModel", "StreamedWeights", "reads_text", "stream"]

DENOISERS = ("unet", "transformer")
_READERS = (
    r"attn2\.to_[kv]",  # cross-attention: Stable Diffusion 1, 2, XL and PixArt
    r"add_embedding\.linear_1",  # the pooled text of Stable Diffusion XL
    r"context_embedder",  # the token sequence of Stable Diffusion 3 and FLUX
    r"time_text_embed\.text_embedder\.linear_1",  # their pooled text
    r"caption_projection\.linear_[12]",  # the token sequence of PixArt and Sana
    r"condition_embedder\.text_embedder\.linear_[12]",  # that of Wan
    r"caption_norm",  # a norm after the latter
    r"time_caption_embed\.caption_embedder\.[01]",  # that of Lumina 2, and a norm before
    r"txt_(norm|in)",  # both of Qwen-Image
    r"patch_embed\.text_proj",  # that of CogView4
    r"cap_embedder\.[01]",  # both of Z-Image
)
_READS_TEXT = re.compile(rf"(^|\.)({'|'.join(_READERS)})\.(weight|bias)$")


class StreamedWeights(nn.Module):
    """A denoiser of which only some weights are there, by their own paths, in the file's dtype.

    They are pages of the model's files, read when they are used. It cannot be called.
    """

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)
        for path, weight in weights.items():
            *levels, name = path.split(".")
            module: nn.Module = self
            for level in levels:
                if level not in module._modules:
                    module.add_module(level, nn.Module())
                module = module.get_submodule(level)
            module.register_parameter(name, nn.Parameter(weight, requires_grad=False))


class StreamedModel:
    """What closed forms need of a text-to-image pipeline, read from its folder piece by piece.

    It has the pipeline's attribute for each tokenizer, each text encoder (`StreamedEncoder`) and
    the denoiser (`StreamedWeights` of the weights that read text). Deltas made on it equal those
    made on the loaded pipeline. Get one from `stream`.
    """

    def __init__(self, folder: Path, parts: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config = SimpleNamespace(_name_or_path=str(folder))
        self.components = dict(parts)
        """Every part by its name in the pipeline; None for those that the folder leaves out."""
        self.embedded_prompts: dict[str, Tensor] = {}
        """What prompts gave, for every embedder of this model: each pass reads an encoder anew."""
        vars(self).update(parts)


def reads_text(path: str) -> bool:
    """Says whether a denoiser's parameter belongs to a layer that reads text, in any family."""
    return _READS_TEXT.search(path) is not None


def stream(folder: Path | str) -> StreamedModel:
    """Opens a diffusers folder for editing without loading its denoiser.

    Takes the memory of its largest text-encoder matrix and of the weights that read text, and
    nothing for the rest. Nothing is downloaded.

    Args:
        folder: a pipeline as ``save_pretrained`` writes it, in safetensors files, sharded or not.

    Raises:
        BadModel: a part or shard is missing, cut short or of another model, or the folder is not a
            pipeline with a text encoder and a denoiser.
    """
    folder = place("the folder", folder)
    check_libraries()
    index = folder_json(folder / "model_index.json")
    kinds = pipeline_parts(folder / "model_index.json", index)
    denoiser = next((name for name in DENOISERS if name in kinds), None)
    if denoiser is None:
        raise BadModel(f"{folder / 'model_index.json'} names no unet or transformer to edit")
    if "text_encoder" not in kinds or "tokenizer" not in kinds:
        raise BadModel(
            f"{folder / 'model_index.json'} names no text encoder with its tokenizer; efface edits "
            "what a model reads from text, so copy the whole pipeline"
        )
    check_classes(folder / "model_index.json", index)
    parts: dict[str, Any] = dict.fromkeys(name for name in index if _reads(name))
    parts |= {name: _part(folder / name, *kinds[name]) for name in kinds if _reads(name)}
    parts[denoiser] = _denoiser(folder / denoiser)
    model = StreamedModel(folder, parts)
    check_pipeline(model, str(index.get("_class_name")), kinds)
    return model


def _reads(name: str) -> bool:
    return name.startswith(("text_encoder", "tokenizer"))


def _part(part: Path, library: str, class_name: str) -> Any:
    if not part.is_dir():
        raise BadModel(f"{part.parent} has no folder '{part.name}'; the copy is not complete")
    if part.name.startswith("text_encoder"):
        return StreamedEncoder(part, class_name)
    named = part.parent / "model_index.json"
    if class_name.endswith("Processor"):
        # It takes pictures, too, for which other packages are needed; the tokenizer lies beside it.
        named = part / "tokenizer_config.json"
        class_name = str(folder_json(named).get("tokenizer_class"))
    kind: Any = library_class(named, library, class_name)
    check_configs(part)
    with library_errors(part, f"load as {class_name}"):
        return kind.from_pretrained(part, local_files_only=True)


def _denoiser(part: Path) -> StreamedWeights:
    if not part.is_dir():
        raise BadModel(f"{part.parent} has no folder '{part.name}'; the copy is not complete")
    check_configs(part)
    config = folder_json(part / "config.json")
    stored = stored_tensors(part)
    chosen = {path: tensor.mapped() for path, tensor in stored.items() if reads_text(path)}
    return StreamedWeights(chosen, config)
