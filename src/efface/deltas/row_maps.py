"""Maps of text rows that no weight can hold: hooks apply them to what a layer reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.content import content_hash
from efface.deltas.gates import gates_are_shut
from efface.errors import BadDelta
from efface.hosts.components import canonical, component, find
from efface.hosts.states import refuse_compiled

__all__ = [
    "RowMap",
    "RowMaps",
    "attach_row_maps",
    "gaussian",
    "mapped",
    "read_row_maps",
    "refuse_row_maps",
    "row_map_tensors",
]

PREFIX = "rows::"
"""Before the names of row maps' tensors in files."""


@dataclass(frozen=True, eq=False)
class RowMap:
    """The map ``f(x) = x + sum_m k(x, z_m) a_m``, with a Gaussian kernel.

    It is the identity where no center is near.
    """

    centers: Float[Tensor, "centers dim"]
    """The z: rows of erased and kept prompts (inducing points)."""
    coefficients: Float[Tensor, "centers dim"]
    """The a: what each adds to a row that lies on it."""
    length_scale: Float[Tensor, ""]
    """The s of ``k(x, z) = exp(-|x - z|^2 / (2 s^2))``."""

    def of(self, rows: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Maps rows, in float32 or wider, and gives them in their own dtype."""
        wide = rows if rows.dtype == torch.float64 else rows.float()
        centers, coefficients = self.centers.to(wide), self.coefficients.to(wide)
        near = gaussian(wide, centers, self.length_scale.to(wide))
        return (wide + near @ coefficients).to(rows.dtype)

    def scaled(self, scale: float) -> RowMap:
        """Multiplies what is added to rows by a number."""
        return RowMap(self.centers, self.coefficients * scale, self.length_scale)


RowMaps = Mapping[str, tuple[RowMap, ...]]
"""By key of `TEXT_KEYS`, the maps of what these layers read, the first one first."""


def gaussian(
    rows: Float[Tensor, "*batch dim"],
    centers: Float[Tensor, "centers dim"],
    length_scale: Float[Tensor, ""],
) -> Float[Tensor, "*batch centers"]:
    """Gives the Gaussian kernel between rows and centers."""
    middle = centers.mean(dim=0)  # near rows of large norm would lose digits
    rows, centers = rows - middle, centers - middle
    square = (rows**2).sum(-1, keepdim=True) + (centers**2).sum(-1)
    distance = (square - 2 * rows @ centers.T).clamp(min=0)
    return torch.exp(distance / (-2 * length_scale**2))


def mapped(
    maps: Sequence[RowMap], rows: Float[Tensor, "*batch inputs"]
) -> Float[Tensor, "*batch inputs"]:
    """Applies maps in their order; columns beyond their width stay.

    Raises:
        BadDelta: rows are narrower than a map, which is for another model.
    """
    for each in maps:
        width = each.centers.shape[1]
        if rows.shape[-1] < width:
            raise BadDelta(
                f"the row map is of rows of {width} values and this layer reads "
                f"{rows.shape[-1]}; the delta is for another model"
            )
        rows = torch.cat([each.of(rows[..., :width]), rows[..., width:]], dim=-1)
    return rows


class _Reading:
    """Maps of one key, for all layers that read the same rows in one pass of the network."""

    def __init__(self, maps: Sequence[RowMap]) -> None:
        self._maps = maps
        self._known: tuple[Tensor, int, bool, Tensor] | None = None
        self.identity = content_hash([vars(each) for each in self._maps])
        """What pictures' names are made of; what is known from a pass is no part of it."""

    def layer(self, _: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if gates_are_shut():
            return None
        return (self._of(given[0]), *given[1:])

    def _of(self, rows: Tensor) -> Tensor:
        if rows.is_inference():
            return mapped(self._maps, rows)
        now = (rows._version, torch.is_grad_enabled())
        if self._known is None or self._known[0] is not rows or self._known[1:3] != now:
            self._known = (rows, *now, mapped(self._maps, rows))
        return self._known[3]

    def forget(self, *_: Any) -> None:
        self._known = None


def attach_row_maps(model: Any, held: RowMaps, scale: float) -> list[Any]:
    """Maps what layers read; removing the handles ends it.

    All layers of a key read the same rows, which are mapped once in a pass of the network.

    Raises:
        BadDelta: the model has no such layer, or it reads narrower rows.
        BadModel: a network is compiled.
    """
    hooks: list[tuple[nn.Module, Any]] = []
    ends: list[tuple[nn.Module, Any]] = []
    for key, maps in held.items():
        part = key.partition("/")[0]
        refuse_compiled(model, part)
        network = component(model, part)
        reading = _Reading([each.scaled(scale) for each in maps])
        ends.append((network, reading))
        for name, weight in find(model, key).items():
            if weight.shape[1] < maps[0].centers.shape[1]:
                raise BadDelta(
                    f"{name} reads {weight.shape[1]} values and the row map is of rows of "
                    f"{maps[0].centers.shape[1]}; the delta is for another model"
                )
            hooks.append((_layer(network, name.partition("/")[2]), reading))
    return [
        *(layer.register_forward_pre_hook(reading.layer) for layer, reading in hooks),
        *(network.register_forward_hook(reading.forget) for network, reading in ends),
    ]


def _layer(network: nn.Module, path: str) -> nn.Module:
    """Finds a layer by its weight's path; one that a library wrapped, with its wrapper."""
    wanted = path.removesuffix(".weight")
    named = network.named_modules()
    found: nn.Module = next(module for own, module in named if canonical(own) == wanted)
    return found


def refuse_row_maps(delta_id: str, held: RowMaps) -> None:
    """Refuses to write weights of a delta that maps rows.

    Raises:
        BadDelta: it does.
    """
    if held:
        raise BadDelta(
            f"delta {delta_id} maps the rows of text that {', '.join(held)} reads, and the map is "
            "not linear, so weights and low-rank layers cannot hold it: export it with --as "
            "adapter or --as module, or apply it when drawing (delta.apply, efface apply)"
        )


def row_map_tensors(held: RowMaps) -> dict[str, Tensor]:
    """Lists the tensors of row maps by the names that files use."""
    return {
        f"{PREFIX}{key}::{place}::{field.name}": getattr(each, field.name)
        for key, maps in held.items()
        for place, each in enumerate(maps)
        for field in fields(RowMap)
    }


def read_row_maps(tensors: Mapping[str, Tensor]) -> dict[str, tuple[RowMap, ...]]:
    """Reads what `row_map_tensors` lists.

    Raises:
        KeyError: a tensor is not there.
    """
    found: dict[str, tuple[RowMap, ...]] = {}
    told = [name.split("::") for name in tensors if name.startswith(PREFIX)]
    for key in dict.fromkeys(words[1] for words in told):
        count = len({words[2] for words in told if words[1] == key})
        names = [field.name for field in fields(RowMap)]
        found[key] = tuple(
            RowMap(**{name: tensors[f"{PREFIX}{key}::{place}::{name}"] for name in names})
            for place in range(count)
        )
    return found
