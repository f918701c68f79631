"""A map of text rows as a module of diffusers; this file goes along and needs no other of efface.

module = TextRowMap.from_pretrained(folder)
handles = module.attach(pipe.unet)          # or: pipe(prompt_embeds=module(embeds), ...)
for handle in handles: handle.remove()      # takes it off again
"""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

__all__ = ["TextRowMap"]

LAYERS = re.compile(r"(^|\.)attn2\.to_[kv]$")
"""Layers that read the rows."""


class TextRowMap(ModelMixin, ConfigMixin):
    """Maps of prompt embeddings ``f(x) = x + sum_m exp(-|x - z_m|^2 / (2 s^2)) a_m``, in turn.

    Args:
        width: values per row.
        counts: how many centers each map has.
        efface: where it comes from.
    """

    @register_to_config  # type: ignore[untyped-decorator, unused-ignore]
    def __init__(
        self,
        width: int = 768,
        counts: tuple[int, ...] = (1,),
        efface: dict[str, str] | None = None,  # noqa: ARG002
    ) -> None:
        super().__init__()
        self.centers = _held(torch.zeros(count, width) for count in counts)
        self.coefficients = _held(torch.zeros(count, width) for count in counts)
        self.length_scale = _held(torch.ones(()) for _ in counts)

    def forward(self, prompt_embeds: Tensor) -> Tensor:
        """Maps embeddings of prompts; negative ones go through it as well."""
        rows = prompt_embeds.to(self.centers[0].dtype)
        for z, a, s in zip(self.centers, self.coefficients, self.length_scale, strict=True):
            middle = z.mean(dim=0)
            x, c = rows - middle, z - middle
            square = (x**2).sum(-1, keepdim=True) + (c**2).sum(-1) - 2 * x @ c.T
            rows = rows + torch.exp(square.clamp(min=0) / (-2 * s**2)) @ a
        return rows.to(prompt_embeds.dtype)

    def attach(self, denoiser: nn.Module) -> list[Any]:
        """Maps what a denoiser's keys and values read, until the handles are removed."""
        layers = [layer for path, layer in denoiser.named_modules() if LAYERS.search(path)]
        return [layer.register_forward_pre_hook(self._read) for layer in layers]

    def _read(self, _: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self(given[0]), *given[1:])


def _held(tensors: Any) -> nn.ParameterList:
    return nn.ParameterList([nn.Parameter(one, requires_grad=False) for one in tensors])
