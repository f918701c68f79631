"""Checkpoints in one file, read by diffusers' own converters with the configs of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from efface.errors import BadModel
from efface.hosts.folders import check_classes, pipeline_parts
from efface.hosts.libraries import check_configs, library_class, library_errors
from efface.hosts.shards import folder_json

if TYPE_CHECKING:
    import torch

__all__ = ["load_single_file"]

_DENOISER = "model.diffusion_model."
"""Begins the names of a denoiser's weights in the original layout."""


def load_single_file(file: Path, config: Path | None, dtype: torch.dtype) -> Any:
    """Reads a checkpoint of Stable Diffusion 1.x, 2.x or XL in the original layout.

    Nothing is downloaded: a single file holds neither configs nor tokenizers, and those of a folder
    are taken, whose weights are not read and need not be there.

    Args:
        file: in safetensors format.
        config: a folder in diffusers' layout of the same kind of model.
        dtype: of the networks.

    Raises:
        BadModel: there is no folder, the file is of another kind or incomplete, or its weights are
            of another size than the folder's configs say.
    """
    if file.suffix != ".safetensors":
        raise BadModel(
            f"{file} is not a safetensors file, and efface opens no pickles as models; convert it "
            "to .safetensors, or give a folder in diffusers' layout"
        )
    names = _names(file)
    if not any(name.startswith(_DENOISER) for name in names):
        raise BadModel(
            f"{file} holds no weight that begins with {_DENOISER} (its first is "
            f"'{next(iter(names), 'none')}'), so it is not a whole checkpoint of Stable Diffusion; "
            "a LoRA or a delta is read by efface import"
        )
    if config is None:
        raise BadModel(
            f"{file} is a single file, which holds neither configs nor tokenizers; give a folder "
            "in diffusers' layout of the same kind of model, whose weights are not read: "
            "--config FOLDER, or efface.load(FILE, config=FOLDER)"
        )
    index = folder_json(config / "model_index.json")
    kinds = pipeline_parts(config / "model_index.json", index)
    check_classes(config / "model_index.json", index)
    for name in kinds:
        check_configs(config / name)
    pipeline: Any = library_class(
        config / "model_index.json", "diffusers", str(index.get("_class_name"))
    )
    if not hasattr(pipeline, "from_single_file"):
        raise BadModel(
            f"{config} is of a {pipeline.__name__}, and diffusers reads no single files of that "
            "kind; give the folder of a model of the same kind as the file"
        )
    with library_errors(file, f"load with the configs of {config}"):
        made = pipeline.from_single_file(
            str(file), config=str(config), local_files_only=True, torch_dtype=dtype
        )
    for path in _missing(made):
        raise BadModel(
            f"{file} has no weight for {path}, which the configs of {config} ask for; they are of "
            "different kinds of models, or the file was cut short"
        )
    made.register_to_config(_name_or_path=str(file))
    return made


def _names(file: Path) -> list[str]:
    from safetensors import safe_open

    with library_errors(file, "open as safetensors"), safe_open(str(file), "pt") as opened:
        return list(opened.keys())


def _missing(pipeline: Any) -> Iterator[str]:
    """Lists the weights that got no values."""
    for name, network in pipeline.components.items():
        if isinstance(network, nn.Module):
            named = [*network.named_parameters(), *network.named_buffers()]
            yield from (f"{name}/{path}" for path, tensor in named if tensor.is_meta)
