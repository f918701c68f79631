"""From a name or a folder to a pipeline: checked first, and never a hidden download."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadModel
from efface.plain_values import place
from efface.registry import BUNDLED, VISION, bundled, reads_pictures

if TYPE_CHECKING:
    import torch

__all__ = ["load"]


def load(
    name_or_folder: str | Path,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    config: str | Path | None = None,
) -> Any:
    """Loads a text-to-image pipeline of diffusers, as it is, or a model that reads pictures.

    Args:
        name_or_folder: ``emoji`` or another name of `efface.registry.BUNDLED`, a folder
            in diffusers' layout, or a hub id such as ``owner/name``; only a hub id may download.
            A ``.safetensors`` checkpoint of Stable Diffusion 1.x, 2.x or XL needs ``config``.
            ``icons-vit`` or ``icons-identities``, or a folder with a classifier of transformers,
            gives a `efface.hosts.vision.VisionModel`.
        dtype: of the networks; float32 when left out, whatever the files hold.
        device: where to put it; the CPU when left out.
        config: for a single file: a folder in diffusers' layout of the same kind of model, whose
            configs and tokenizers are taken and whose weights are not read.

    Raises:
        BadRequest: the name, the type of numbers or the device is none.
        BadModel: nothing there, a file is missing, cut short or holds tensors of another shape, or
            the pipeline is not one that efface can edit.
    """
    import torch

    from efface.hosts.libraries import check_libraries, check_placing
    from efface.hosts.vision_families import load_vision

    check_libraries()
    name = str(name_or_folder)
    place("the model", name_or_folder)
    check_placing(dtype, device)
    if reads_pictures(name):
        return load_vision(name, dtype, device)
    wanted = torch.float32 if dtype is None else dtype
    # Some networks draw first values, which the files' then replace.
    with torch.random.fork_rng(devices=[]):
        pipeline = _found(name, wanted, None if config is None else Path(config))
    _check_parts(pipeline, name)
    return pipeline if device is None else pipeline.to(device)


def _found(name: str, dtype: torch.dtype, config: Path | None) -> Any:
    if Path(name).is_file():
        from efface.hosts.single_files import load_single_file

        return load_single_file(Path(name), config, dtype)
    if config is not None:
        raise BadModel(
            f"{name} is not a single file, and config={config} is for those alone; leave it out"
        )
    if name in BUNDLED:
        module = bundled(name)
        pipeline = _from_folder(Path(module.pipeline_folder()), dtype)
        getattr(module, "finish", lambda _: None)(pipeline)
        pipeline.register_to_config(_name_or_path=name)
        return pipeline
    if Path(name).is_dir():
        return _from_folder(Path(name), dtype)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not Path(name).parent.is_dir():
        return _from_hub(name, dtype)
    known = [*BUNDLED, *VISION]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise BadModel(
        f"there is no folder {name}, and it is neither a bundled model "
        f"({', '.join(known)}) nor a hub id such as owner/name{hint}"
    )


def _from_folder(folder: Path, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    from efface.hosts.folders import check_folder
    from efface.hosts.libraries import library_errors
    from efface.hosts.shards import folder_json

    variant = check_folder(folder)
    index = folder_json(folder / "model_index.json")
    _check_processor(folder, index)
    # diffusers wants to be told of encoders that a folder leaves out, such as T5 in SD 3.
    absent = {
        name: None
        for name, entry in index.items()
        if name.startswith(("text_encoder", "tokenizer")) and entry == [None, None]
    }
    given = {"local_files_only": True, "use_safetensors": True, "variant": variant}
    with library_errors(folder, "load as a pipeline"):
        pipeline = DiffusionPipeline.from_pretrained(folder, **given, **_as(dtype), **absent)
    _check_filled(folder, pipeline)
    return pipeline


def _check_filled(folder: Path, pipeline: Any) -> None:
    """Refuses files whose names the library did not take for the network's."""
    from efface.hosts.components import components

    for name, network in components(pipeline).items():
        for path, weight in network.named_parameters():
            if weight.is_meta:
                raise BadModel(
                    f"{folder / name} has no '{path}' under a name that diffusers reads, as after "
                    "torch.compile; save the network again as it was before that"
                )


def _check_processor(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuses a processor that transformers offers with torchvision alone, by what to do."""
    lacking = importlib.util.find_spec("torchvision") is None
    if lacking and index.get("tokenizer") == ["transformers", "PixtralProcessor"]:
        raise BadModel(
            f"{folder} reads text by a PixtralProcessor, which needs torchvision: install it to "
            "draw or train; closed forms edit the folder without (leave --smoke out and give "
            "--no-evaluate)"
        )


def _as(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Names the argument as the installed diffusers does."""
    major, minor, *_ = importlib.metadata.version("diffusers").split(".")
    return {"dtype" if (int(major), int(minor)) >= (0, 42) else "torch_dtype": dtype}


def _from_hub(name: str, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    try:
        folder = DiffusionPipeline.download(name, use_safetensors=True)
    except OSError as error:
        reason = str(error).strip().partition("\n")[0]
        raise BadModel(
            f"{name} is not a folder here and could not be fetched from the hub ({reason}); "
            "check the name and the connection, or give a folder"
        ) from error
    # Read like any folder, so that what it names is checked before anything of it is imported.
    pipeline = _from_folder(Path(folder), dtype)
    pipeline.register_to_config(_name_or_path=name)
    return pipeline


def _check_parts(pipeline: Any, name: str) -> None:
    from efface.hosts.families import FAMILIES, layout

    wanted = ("vae", "text_encoder", "tokenizer", "scheduler")
    missing = [part for part in wanted if getattr(pipeline, part, None) is None]
    if all(getattr(pipeline, part, None) is None for part in ("unet", "transformer")):
        missing.insert(0, "unet or transformer")
    if missing or layout(pipeline) not in FAMILIES:
        lacking = f" without {', '.join(missing)}" if missing else ""
        raise BadModel(
            f"{name} is a {type(pipeline).__name__}{lacking}; efface edits pipelines of "
            f"{', '.join(FAMILIES.values())}"
        )
