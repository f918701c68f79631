"""Checkpoints in one file, copied with a delta in their weights; all else stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.deltas.empty_prompt import refuse_in_weights
from efface.errors import BadDelta, BadRequest
from efface.exchange.kohya_names import original_name
from efface.files import replacing
from efface.hosts.components import component, find
from efface.hosts.libraries import library_errors

if TYPE_CHECKING:
    from torch import Tensor

    from efface.deltas.delta import Delta

__all__ = ["edited_single_file"]

_CLIP = (
    "cond_stage_model.transformer.text_model.",
    "conditioner.embedders.0.transformer.text_model.",
)
"""Where the first text encoder is in files of Stable Diffusion 1.x, and of XL."""


def edited_single_file(
    file: Path,
    delta: Delta,
    model: Any,
    out: Path,
    *,
    scale: float = 1.0,
    overwrite: bool = False,
) -> list[str]:
    """Copies a checkpoint of one file with the changes of a delta added to its weights.

    Args:
        file: in the original layout; it stays as it is.
        delta: made for the model.
        model: the pipeline that was loaded from the file.
        out: the new file; it takes the header's metadata along, and names the delta.
        scale: times the change.
        overwrite: whether a file that is there is replaced.

    Returns:
        The names of the tensors that differ.

    Raises:
        BadRequest: the new file's name says another format, or the place is taken.
        BadDelta: the delta changes what the layout has no name for, or what no weight can hold: a
            gate, or an empty prompt that stays.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    if out.suffix != ".safetensors":
        raise BadRequest(f"{out} is written as safetensors; end its name in .safetensors")
    refuse_in_weights(delta.id, delta.empty_prompt)
    if delta.gate is not None:
        raise BadDelta(
            f"delta {delta.id} opens by what a prompt says, and weights of one file cannot; draw "
            "with efface apply, or export it with --as spm"
        )
    with library_errors(file, "open as safetensors"), safe_open(str(file), "pt") as opened:
        metadata: dict[str, str] = opened.metadata() or {}
        tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    with delta.apply(model, scale=scale):
        changed = {
            key: parameter.detach().to("cpu", copy=True)
            for each in delta.keys
            for key, parameter in find(model, each).items()
        }
    names = {key: _name(model, key, tensors) for key in changed}
    for key, name in names.items():
        held = tensors[name]
        tensors[name] = changed[key].reshape(held.shape).to(held.dtype)
    with replacing(out, overwrite=overwrite, protected=[file]) as place:
        save_file(tensors, place, metadata={**metadata, "efface_delta": delta.id})
    return [*names.values()]


def _name(model: Any, key: str, tensors: dict[str, Tensor]) -> str:
    part, _, path = key.partition("/")
    module, _, kind = path.rpartition(".")
    names: tuple[str, ...] = ()
    if part == "unet":
        config: Any = component(model, part).config
        names = (f"model.diffusion_model.{original_name(module, config)}.{kind}",)
    elif part == "text_encoder":
        names = tuple(prefix + path for prefix in _CLIP)
    for name in names:
        if name in tensors:
            return name
    raise BadDelta(
        f"the delta changes {key}, which has no weight of its own in this file "
        f"({', '.join(names) or 'the layout is not known'}); save the model as a folder "
        "(save_pretrained) and write an edited copy of that"
    )
