"""A delta as one low-rank change per layer, which is what LoRA files hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.deltas.application import references
from efface.deltas.delta import Delta
from efface.deltas.empty_prompt import refuse_in_weights
from efface.deltas.expansion import expanded
from efface.deltas.patches import DensePatch, LowRankPatch, Patch, finite
from efface.errors import BadDelta, BadRequest
from efface.hosts.components import canonical, component
from efface.hosts.vision import VisionModel

__all__ = ["Layer", "Layers", "check_exportable", "every_network", "full_refused", "layers_of"]


@dataclass(frozen=True)
class Layer:
    """The change ``up @ down`` of one weight."""

    up: Float[Tensor, "out rank"]
    down: Float[Tensor, "rank in_"]
    """For convolutions ``in_`` is input channels times kernel size."""
    kernel: tuple[int, ...] = ()
    """Size of a convolution's kernel; empty for linear layers."""

    def shaped(self) -> tuple[Tensor, Tensor]:
        """Gives up and down as a layer's weights: ``down`` has the kernel, ``up`` is 1 x 1."""
        if not self.kernel:
            return self.up.contiguous(), self.down.contiguous()
        down = self.down.reshape(self.rank, -1, *self.kernel)
        return self.up[..., None, None].contiguous(), down.contiguous()

    @property
    def rank(self) -> int:
        """The number of directions."""
        return len(self.down)


@dataclass(frozen=True)
class Layers:
    """All changed layers of one network, by the module's path in it."""

    component: str
    by_module: dict[str, Layer]
    lost: float
    """Size of what a limited rank leaves out, relative to the whole change; 0 is exact."""
    model: Any
    """The base, for the names that its family has in other tools."""
    full: Mapping[str, Tensor] = field(default_factory=dict)
    """Changes of whole parameters by their paths, for layouts that hold them."""

    @property
    def rank(self) -> int:
        """The largest rank."""
        return max((layer.rank for layer in self.by_module.values()), default=0)


def check_exportable(delta: Delta, *, scale: float = 1.0, rank: int | None = None) -> None:
    """Refuses what no file should hold, before anything is written.

    Raises:
        BadRequest: a scale that is no number or 0, or a rank below 1.
        BadDelta: values of the delta are not finite, or weights alone do not hold it.
    """
    refuse_in_weights(delta.id, delta.empty_prompt)
    scale = finite(scale)
    if not scale:
        raise BadRequest("the scale is 0, which changes nothing; give another one")
    if rank is not None and rank < 1:
        raise BadRequest(f"the rank is {rank}; it must be 1 or more")
    for name, tensor in delta.tensors().items():
        if tensor.is_floating_point() and not bool((tensor * scale).isfinite().all()):
            raise BadDelta(
                f"delta {delta.id} times {scale:g} has values in {name} that are not finite; "
                "it wrecks every model, so erase again"
            )


def full_refused(keys: Sequence[str], model: Any = None) -> BadRequest:
    """Says that a layout holds no biases and norms, and which ones do."""
    if isinstance(model, VisionModel):
        return BadRequest(
            f"the delta changes {len(keys)} biases or norms ({keys[0]} ...), which low-rank layers "
            "cannot hold, cut or not; export the edited folder: --as transformers"
        )
    return BadRequest(
        f"the delta changes {len(keys)} biases or norms ({keys[0]} ...), which this layout cannot "
        "hold; export it with --as comfyui or --as kohya, whose files ComfyUI reads whole, or the "
        "edited folder: "
        "--as diffusers"
    )


def layers_of(
    delta: Delta,
    model: Any,
    *,
    scale: float = 1.0,
    rank: int | None = None,
    biases: bool = False,
    part: str | None = None,
    dense: bool = False,
) -> Layers:
    """Writes a delta out layer by layer, exactly where it is low rank.

    Args:
        delta: with changes of linear layers and convolutions of one network.
        model: the base that the delta was made for.
        scale: how much of the change goes in.
        rank: cut every layer to this rank by SVD; needed where a change is dense.
        biases: whether the layout holds changes of biases and norms.
        part: the one network to write out; without it the delta must change one alone.
        dense: whether the layout holds changes of any parameter as they are.

    Raises:
        BadDelta: another base, a missing parent, or values that are not finite.
        BadRequest: changes of several networks, or of something that no LoRA file can hold, or a
            dense change without a rank.
    """
    check_exportable(delta, scale=scale, rank=rank)
    references(delta, model)
    written = expanded(delta, model)
    parts = [part] if part is not None else _changed(written)
    if len(parts) != 1:
        raise BadRequest(
            f"a LoRA file changes one network and the delta changes {', '.join(parts)}; "
            "export the edited folder, --as diffusers, or one file for ComfyUI, --as comfyui"
        )
    paths = _paths(model, parts[0])
    patches = {key: each for key, each in written.patches.items() if key in paths}
    tables = _tables(model, parts[0]) if dense else frozenset()
    full = _full(patches, paths, scale, tables if dense and rank is None else None)
    if full and not (biases or dense):
        raise full_refused(tuple(full), model)
    rest = {key: patch for key, patch in patches.items() if paths[key][0] not in full}
    found, lost = _matrices(rest, paths, rank, model)
    scaled = {path: replace(layer, up=layer.up * scale) for path, layer in found.items()}
    return Layers(parts[0], scaled, lost, model, full)


def _matrices(
    patches: Mapping[str, Patch],
    paths: Mapping[str, tuple[str, Tensor]],
    rank: int | None,
    model: Any,
) -> tuple[dict[str, Layer], float]:
    """Gives the low-rank layers by module, and the share of the change that the rank leaves out."""
    found: dict[str, Layer] = {}
    whole = left = 0.0
    for key, patch in patches.items():
        path, weight = paths[key]
        if (
            weight.ndim not in (2, 4)
            or not isinstance(patch, DensePatch | LowRankPatch)
            or not path.endswith(".weight")
        ):
            raise BadRequest(
                f"the delta changes {key}, which a LoRA file cannot hold; "
                f"export the edited folder instead: --as {_folder_of(model)}"
            )
        layer = _layer(key, patch, rank, model)
        change = patch.on(torch.zeros(weight.shape, dtype=torch.float64))
        whole += float(change.square().sum())
        kept = (layer.up.double() @ layer.down.double()).reshape(weight.shape)
        left += float((change - kept).square().sum())
        module = path.removesuffix(".weight")
        found[module] = Layer(layer.up, layer.down, tuple(weight.shape[2:]))
    return found, (left / whole) ** 0.5 if rank is not None and whole else 0.0


def every_network(
    delta: Delta, model: Any, *, scale: float = 1.0, rank: int | None = None
) -> tuple[Layers, ...]:
    """Writes a delta out for a layout that holds several networks and changes of any parameter.

    What is low rank stays low rank, and all else is dense, unless a rank is given.

    Raises:
        BadDelta, BadRequest: see `layers_of`.
    """
    check_exportable(delta, scale=scale, rank=rank)
    written = expanded(delta, model)  # with what is ungated, which may be of other networks
    how: dict[str, Any] = {"scale": scale, "rank": rank, "dense": True}
    return tuple(layers_of(written, model, part=part, **how) for part in _changed(written))


def _changed(delta: Delta) -> list[str]:
    """Lists the networks that a delta changes."""
    return sorted({key.partition("/")[0] for key in delta.patches})


def _full(
    patches: Mapping[str, Patch],
    paths: Mapping[str, tuple[str, Tensor]],
    scale: float,
    tables: frozenset[str] | None,
) -> dict[str, Tensor]:
    """Gives changes that go along whole: of biases and norms, or of all that is not low rank.

    Args:
        patches: by key.
        paths: by key, as `_paths` gives them.
        scale: how much of the change goes in.
        tables: the paths of embeddings, where the layout holds whatever is dense; else None.
    """
    found: dict[str, Tensor] = {}
    for key, patch in patches.items():
        path, weight = paths[key]
        matrix = isinstance(patch, LowRankPatch) and weight.ndim in (2, 4)
        if weight.ndim == 1 and isinstance(patch, DensePatch):
            found[path] = patch.difference * scale
        elif tables is not None and not (
            matrix and path.endswith(".weight") and path not in tables
        ):
            found[path] = patch.on(torch.zeros(weight.shape)) * scale
    return found


def _tables(model: Any, part: str) -> frozenset[str]:
    """Lists the weights of embeddings, whose low-rank changes LoRA files write otherwise."""
    modules = component(model, part).named_modules()
    return frozenset(f"{path}.weight" for path, each in modules if isinstance(each, nn.Embedding))


def _whole_of(model: Any) -> str:
    """Names the formats that hold a dense change as it is."""
    return "transformers" if isinstance(model, VisionModel) else "comfyui or --as diffusers"


def _folder_of(model: Any) -> str:
    """Names the format of an edited folder."""
    return "transformers" if isinstance(model, VisionModel) else "diffusers"


def _layer(key: str, patch: DensePatch | LowRankPatch, rank: int | None, model: Any) -> Layer:
    if isinstance(patch, LowRankPatch):
        if rank is None or rank >= len(patch.down):
            return Layer(patch.up.float(), patch.down.float())
        dense = patch.up.double() @ patch.down.double()
    elif rank is None:
        raise BadRequest(
            f"the change of {key} is dense and a LoRA file holds low rank; say how much with "
            f"--rank N (what is lost is reported), or export it whole: --as {_whole_of(model)}"
        )
    else:
        dense = patch.difference.double().flatten(1)
    u, values, v = torch.linalg.svd(dense, full_matrices=False)
    root = values[:rank].sqrt()
    return Layer((u[:, :rank] * root).float(), (root[:, None] * v[:rank]).float())


def _paths(model: Any, part: str) -> dict[str, tuple[str, Tensor]]:
    """Maps canonical keys to the parameter's path in the installed library, and its weight."""
    return {
        f"{part}/{canonical(path)}": (path, weight)
        for path, weight in component(model, part).named_parameters()
    }
