"""Cross-attention maps of one size, from a forward pass that ends after the last layer it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.diffusion.denoising import Denoiser
from efface.errors import BadModel, BadRequest
from efface.hosts.conditions import Conditions
from efface.hosts.families import FAMILIES
from efface.memory import moved
from efface.randomness import evaluating

__all__ = ["READABLE", "AttentionMaps", "Layer", "cross_attention_layers", "frozen_weights"]

READABLE = frozenset({"sd1", "sd2", "sdxl"})
"""Families whose cross-attention is read: U-Nets in which each pixel looks at tokens."""


class Layer(NamedTuple):
    """A cross-attention layer, and how many pixels high and wide its queries are."""

    module: nn.Module
    size: tuple[int, int]


class AttentionMaps:
    """Reads how much each pixel attends to each token, averaged over heads and layers of one size.

    A pre-hook on each of these layers takes the layer's inputs and computes the probabilities from
    its own projections, so that adapters on them count, and no processor is ever exchanged: fused
    attention stays where it is. The last hook ends the pass. What would come after it cannot reach
    the maps, so maps and gradients are those of the whole pass. Hooks are there while `read` runs.

    Args:
        denoiser: of a family in `READABLE`.
        latent_size: height and width of the latents that will be read.
        resolution: the maps' shorter side; None: the size there is that is nearest to a quarter of
            the latents', which is 16 for Stable Diffusion 1.x at 512 pixels.
        whole: lets the pass go on to its end, which changes nothing but its cost.

    Raises:
        BadRequest: the family has no such layers, or none has this size for these latents.
        BadModel: the network recomputes activations, which would run hooks twice.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        latent_size: tuple[int, int],
        *,
        resolution: int | None = None,
        whole: bool = False,
    ) -> None:
        if denoiser.host.key not in READABLE:
            known = ", ".join(FAMILIES[key] for key in FAMILIES if key in READABLE)
            raise BadRequest(
                f"{denoiser.host.title} has no cross-attention of pixels to tokens that is read "
                f"here; guides that read attention maps run on {known}"
            )
        if any(
            getattr(part, "gradient_checkpointing", False) for part in denoiser.network.modules()
        ):
            raise BadModel(
                "the denoiser recomputes activations in its backward pass, which reads attention "
                "twice; call disable_gradient_checkpointing() on it"
            )
        self._denoiser, self._whole = denoiser, whole
        self.latent_size = latent_size
        layers = cross_attention_layers(denoiser.network, latent_size)
        self.size = _size_asked(layers, latent_size, resolution)
        """Height and width of the maps."""
        self.layers = tuple(each.module for each in layers if each.size == self.size)
        """What is averaged, in the order in which it runs."""

    def read(
        self,
        latents: Float[Tensor, "n c h w"],
        times: Float[Tensor, " n"],
        conditions: Conditions,
    ) -> Float[Tensor, "n height width tokens"]:
        """Gives the maps of each sample for its conditions, in float32 at least.

        They can be differentiated by the latents where gradients are enabled, and by nothing else.
        Each sample counts as one evaluation of the network, though the pass is cut short.

        Raises:
            BadRequest: the latents are of another size than was said.
            BadModel: a layer was given another number of pixels than its place in the network says.
        """
        if (found := tuple(latents.shape[-2:])) != self.latent_size:
            raise BadRequest(
                f"latents are {_written(found)} and maps were asked for "
                f"{_written(self.latent_size)}; make another reader for this size"
            )
        maps: list[Tensor] = []
        network = self._denoiser.network
        self._denoiser.evaluations += len(latents)
        with ExitStack() as stack:
            stack.enter_context(evaluating(network))
            stack.enter_context(frozen_weights(network))
            for module in self.layers:
                hook = partial(self._collect, maps)
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            with suppress(_AllRead):
                self._denoiser.host.predict(latents, moved(times, latents.device), conditions)
        # Layers may differ in their number of heads, and each head counts once.
        averaged: Tensor = torch.cat(maps, dim=1).mean(dim=1).unflatten(1, self.size)
        return averaged

    def _collect(
        self, maps: list[Tensor], module: Any, given: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        states = given[0] if given else named["hidden_states"]
        text: Any = given[1] if len(given) > 1 else named.get("encoder_hidden_states")
        if states.ndim != 3 or states.shape[1] != self.size[0] * self.size[1]:
            raise BadModel(
                f"a cross-attention layer was given {tuple(states.shape)} where its place in the "
                f"network says {_written(self.size)} pixels; this U-Net is of an unknown build"
            )
        maps.append(_probabilities(module, states, text, named.get("attention_mask")))
        if len(maps) == len(self.layers) and not self._whole:
            raise _AllRead


class _AllRead(Exception):
    """Ends a forward pass from inside; not an error."""


@contextmanager
def frozen_weights(network: nn.Module) -> Iterator[None]:
    """Keeps gradients from weights, so that their inputs are not held for them."""
    free = [weight for weight in network.parameters() if weight.requires_grad]
    try:
        for weight in free:
            weight.requires_grad = False
        yield
    finally:
        for weight in free:
            weight.requires_grad = True


def cross_attention_layers(network: Any, latent_size: tuple[int, int]) -> list[Layer]:
    """Lists a U-Net's cross-attention layers in the order in which they run, with their sizes.

    Sizes follow from the latents' and from where the network halves them; no layer's name counts.
    """
    found, size, passed = [], latent_size, []
    for block in network.down_blocks:
        found += _layers(block, size)
        passed.append(size)
        if getattr(block, "downsamplers", None):
            size = (-(-size[0] // 2), -(-size[1] // 2))
    if network.mid_block is not None:
        found += _layers(network.mid_block, size)
    for block, size_there in zip(network.up_blocks, reversed(passed), strict=True):
        found += _layers(block, size_there)
    return found


def _layers(block: nn.Module, size: tuple[int, int]) -> list[Layer]:
    crossing = [part for part in block.modules() if getattr(part, "is_cross_attention", False)]
    return [Layer(part, size) for part in crossing]


def _size_asked(
    layers: Sequence[Layer], latent_size: tuple[int, int], resolution: int | None
) -> tuple[int, int]:
    # A map of one pixel says nothing of where a thing is.
    sizes = sorted({layer.size for layer in layers if min(layer.size) > 1})
    if resolution is None and sizes:
        quarter = min(latent_size) / 4
        return min(sizes, key=lambda size: (abs(min(size) - quarter), -min(size)))
    for size in sizes:
        if min(size) == resolution:
            return size
    there = " and ".join(_written(size) for size in sizes) or "none above one pixel"
    raise BadRequest(
        f"no cross-attention layer has maps of side {resolution} for latents of "
        f"{_written(latent_size)}; this model has {there}: ask for one of those sides as "
        "resolution, or draw a picture of another size"
    )


def _written(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _probabilities(
    layer: Any, states: Tensor, text: Tensor, mask: Tensor | None
) -> Float[Tensor, "n heads pixels tokens"]:
    """Gives a layer's attention as its processors compute it, from the softmax on in float32."""
    if layer.group_norm is not None:
        states = layer.group_norm(states.transpose(1, 2)).transpose(1, 2)
    if layer.norm_cross:
        text = layer.norm_encoder_hidden_states(text)
    query, key = (
        rows.unflatten(2, (layer.heads, -1)).transpose(1, 2)
        for rows in (layer.to_q(states), layer.to_k(text))
    )
    query = query if layer.norm_q is None else layer.norm_q(query)
    key = key if layer.norm_k is None else layer.norm_k(key)
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = layer.scale * query.to(wide) @ key.to(wide).transpose(-1, -2)
    if mask is not None:
        mask = layer.prepare_attention_mask(mask, key.shape[2], len(states))
        scores = scores + mask.reshape(len(states), layer.heads, -1, key.shape[2])
    shares: Tensor = scores.softmax(dim=-1)
    return shares
