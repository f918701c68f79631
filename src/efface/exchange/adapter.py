"""A map of text as a file of its own: it changes prompt embeddings instead of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from efface.deltas.delta import Delta
from efface.deltas.patches import TextMapPatch
from efface.deltas.row_maps import RowMap, mapped, read_row_maps, row_map_tensors
from efface.errors import BadDelta, BadRequest
from efface.exchange.headers import saved
from efface.exchange.low_rank import check_exportable
from efface.files import write_atomically
from efface.hosts.components import KEY_VALUE
from efface.plain_values import place

__all__ = ["RowAdapter", "TextAdapter", "load_adapter", "rows_of", "write_adapter", "write_module"]

FORMAT, ROW_FORMAT = "efface-text-adapter", "efface-row-adapter"


@dataclass(frozen=True)
class TextAdapter:
    """The map ``x + left (right x)`` of prompt embeddings.

    ``W (P x) = (W P) x``: giving a model mapped embeddings is giving mapped keys and values to the
    model, as long as nothing else reads the embeddings.
    """

    left: Float[Tensor, "dim rank"]
    right: Float[Tensor, "rank dim"]

    def __call__(
        self, prompt_embeds: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Maps embeddings; negative ones go through it as well.

        Raises:
            BadRequest: the embeddings have another width.
        """
        _check_width(prompt_embeds, len(self.left))
        left, right = self.left.to(prompt_embeds), self.right.to(prompt_embeds)
        mapped: Tensor = prompt_embeds + (prompt_embeds @ right.T) @ left.T
        return mapped


@dataclass(frozen=True)
class RowAdapter:
    """Maps of prompt embeddings that are not linear, one after the other."""

    maps: tuple[RowMap, ...]

    def __call__(
        self, prompt_embeds: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Maps embeddings; negative ones go through it as well.

        Raises:
            BadRequest: the embeddings have another width.
        """
        _check_width(prompt_embeds, self.maps[0].centers.shape[1])
        return mapped(self.maps, prompt_embeds)


def _check_width(prompt_embeds: Tensor, width: int) -> None:
    if prompt_embeds.shape[-1] != width:
        raise BadRequest(
            f"the adapter maps embeddings of {width} values and was given "
            f"{prompt_embeds.shape[-1]}; it is for another text encoder"
        )


def rows_of(delta: Delta) -> tuple[RowMap, ...]:
    """Gives the row maps of a delta that changes nothing else, of a model where they suffice.

    Raises:
        BadRequest: it changes more, or the denoiser reads text in several places.
    """
    if delta.patches or delta.ungated or len(delta.row_maps) != 1:
        raise BadRequest(
            f"the delta changes {', '.join(delta.keys)}, and one map of prompt embeddings cannot "
            "stand in for all of it; apply the delta when drawing (delta.apply, efface apply)"
        )
    ((key, maps),) = delta.row_maps.items()
    if not key.endswith("/key_value"):
        raise BadRequest(
            f"the delta maps what {key} reads, and other layers of this family read prompt "
            "embeddings, too; apply the delta when drawing (delta.apply, efface apply)"
        )
    return maps


def write_adapter(
    delta: Delta, path: Path, facts: Mapping[str, str], *, scale: float = 1.0
) -> Path:
    """Writes the map of a delta; it works with every checkpoint that shares the text encoder.

    Raises:
        BadRequest: the delta changes more than what reads text, or has no map of it.
        BadDelta: its values are not finite.
    """
    check_exportable(delta, scale=scale)
    if delta.row_maps:
        rows_of(delta)
        held = row_map_tensors(delta.scaled(scale).row_maps)
        held = {name: tensor.contiguous() for name, tensor in held.items()}
        write_atomically(path, saved(held, {**facts, "format": ROW_FORMAT}))
        return path
    patch = delta.patches.get(KEY_VALUE)
    if not isinstance(patch, TextMapPatch) or len(delta.patches) > 1:
        raise BadRequest(
            "the delta is not one map of the text side, so embeddings cannot stand in for it; "
            "export it with --as diffusers-lora or --as diffusers"
        )
    tensors = {"left": (patch.left * scale).contiguous(), "right": patch.right.contiguous()}
    write_atomically(path, saved(tensors, {**facts, "format": FORMAT}))
    return path


def load_adapter(path: Path | str) -> TextAdapter | RowAdapter:
    """Reads what ``efface export --as adapter`` wrote.

    Raises:
        BadRequest: no file can have that name.
        BadDelta: the file is missing, damaged, or something else.
    """
    path = place("the path", path)
    try:
        with safe_open(path, framework="pt") as file:
            told = (file.metadata() or {}).get("format")
            if told == ROW_FORMAT:
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                ((_, maps),) = read_row_maps(held).items()
                return RowAdapter(maps)
            if told != FORMAT:
                raise BadDelta(f"{path} is not a text adapter written by efface")
            return TextAdapter(file.get_tensor("left"), file.get_tensor("right"))
    except (SafetensorError, OSError) as error:
        raise BadDelta(f"{path} is missing or damaged ({error}); export it again") from error


def write_module(
    delta: Delta, folder: Path, facts: Mapping[str, str], *, scale: float = 1.0
) -> Path:
    """Writes the row maps of a delta as a module of diffusers, with the file that defines it.

    Raises:
        BadRequest: the delta changes more than the rows of keys and values, or maps none.
        BadDelta: its values are not finite.
    """
    from efface.exchange import row_module

    check_exportable(delta, scale=scale)
    if not delta.row_maps:
        raise BadRequest(
            "the delta maps no rows, so there is no module to write; export it with --as adapter, "
            "--as diffusers-lora or --as diffusers"
        )
    maps = rows_of(delta.scaled(scale))
    counts = tuple(len(each.centers) for each in maps)
    module = row_module.TextRowMap(maps[0].centers.shape[1], counts, dict(facts))
    held = {
        f"{name}.{place}": getattr(each, name).float()
        for place, each in enumerate(maps)
        for name in ("centers", "coefficients", "length_scale")
    }
    module.load_state_dict(held)
    module.save_pretrained(folder)
    source = Path(row_module.__file__).read_text("utf-8")
    write_atomically(folder / "row_module.py", source.encode())
    return folder
