"""The networks of a model, their weights and layers by every name that files have for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from efface.exchange.kohya_names import original_name
from efface.hosts.components import canonical, components
from efface.hosts.families import HOSTS
from efface.hosts.states import check_editable

__all__ = ["NETWORKS", "Claim", "Network", "claim", "denoiser", "networks", "without_wrapper"]

NETWORKS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")
"""Networks that decide what a picture shows."""
_WRAPPERS = re.compile(r"^(state_dict|model_state_dict|module|base_model\.model|model)\.")
"""What files put before all names."""
_DENOISER = "denoiser"
_UNDERSCORED = {
    "lora_unet_": _DENOISER,
    "lora_transformer_": _DENOISER,
    "lycoris_": _DENOISER,
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
}
"""Names of networks in kohya's and LyCORIS' files."""
_DOTTED = {
    "diffusion_model.": _DENOISER,
    "cond_stage_model.transformer.": "text_encoder",
    "cond_stage_model.": "text_encoder",
    "conditioner.embedders.0.transformer.": "text_encoder",
    "conditioner.embedders.1.": "text_encoder_2",
    "transformer.text_model.": "text_encoder",  # FrozenCLIPEmbedder of the original code
    "first_stage_model.": "vae",
    "text_encoder_3.": "text_encoder_3",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
    "transformer.": "transformer",
    "unet.": "unet",
    "vae.": "vae",
}
"""Names of networks in other files; longer ones first where one begins another."""
_OLD_VAE = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class Claim:
    """A name taken apart: the network it says it is of, if any, and the path in it."""

    part: str | None
    path: str


@dataclass(frozen=True)
class Network:
    """One network of a model."""

    part: str
    module: nn.Module
    original: bool
    """Whether the original (latent diffusion) code has names for its layers."""

    @cached_property
    def editable(self) -> Network:
        """The network itself, if an edit of its weights would reach what draws.

        Raises:
            BadModel: see `efface.hosts.states.check_editable`.
        """
        check_editable(SimpleNamespace(**{self.part: self.module}))
        return self

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Gives weights by canonical path."""
        return {canonical(path): w for path, w in self.module.named_parameters()}

    @cached_property
    def names(self) -> dict[str, str]:
        """Maps every name of a weight to its canonical path."""
        first = {id(weight): path for path, weight in self.weights.items()}
        every = self.module.named_parameters(remove_duplicate=False)
        found = {canonical(path): first[id(weight)] for path, weight in every}
        for path in self.weights:
            module, _, leaf = path.rpartition(".")
            found.setdefault(module, path) if leaf == "weight" else None
            for other in self._others(module):
                found.setdefault(f"{other}.{leaf}", path)
        return found

    @cached_property
    def buffers(self) -> dict[str, Tensor]:
        """Gives by canonical path what is no weight, such as numbers of positions."""
        return {canonical(path): buffer for path, buffer in self.module.named_buffers()}

    @cached_property
    def layers(self) -> dict[str, nn.Module]:
        """Gives modules with weights of their own by canonical path."""
        return {
            canonical(path): module
            for path, module in self.module.named_modules()
            if any(True for _ in module.parameters(recurse=False))
        }

    @cached_property
    def _spelled(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in self.layers:
            for name in (path, *self._others(path)):
                found.setdefault(name.replace(".", "_"), path)
        return found

    def layer(self, path: str) -> str | None:
        """Finds the canonical path of a layer by any of its names."""
        spellings = (each.replace(".", "_") for each in _spellings(canonical(path)))
        return next((self._spelled[each] for each in spellings if each in self._spelled), None)

    def weight(self, path: str) -> str | None:
        """Finds the canonical path of a weight by any of its names; a layer's is its weight's."""
        return self.names.get(canonical(path))

    @cached_property
    def _tops(self) -> set[str]:
        return {name.partition(".")[0] for name in (*self.names, *self._spelled)}

    def holds(self, path: str) -> bool:
        """Says whether a path begins like those of this network."""
        plain = canonical(path)
        return plain.partition(".")[0] in self._tops or self.within(path)

    def within(self, path: str) -> bool:
        """Says whether a path is of something in one of this network's layers."""
        levels = canonical(path).split(".")
        return any(self.layer(".".join(levels[:n])) for n in range(len(levels), 0, -1))

    def _others(self, module: str) -> Iterator[str]:
        if self.original:
            with suppress(KeyError, IndexError, AttributeError):  # blocks that code does not know
                yield original_name(module, self.module.config)
        if self.part == "vae":
            for old, new in _OLD_VAE.items():
                if module.endswith(f".{new}"):
                    yield f"{module.removesuffix(new)}{old}"


def networks(model: Any) -> dict[str, Network]:
    """Lists the networks of a pipeline by name; a bare network is ``model``."""
    known = any(host.part == "unet" and host.recognises(model) for host in HOSTS)
    return {
        part: Network(part, module, original=known and part == "unet")
        for part, module in components(model).items()
    }


def claim(name: str, parts: dict[str, Network]) -> Claim:
    """Takes the name of a network, if there is one, off the front of a key."""
    name = _unwrapped(name)
    for prefix, part in _UNDERSCORED.items():
        if name.startswith(prefix):
            path = name.removeprefix(prefix)
            is_text = part.startswith("text")
            return Claim(_here(part, parts), path.removeprefix("text_model_") if is_text else path)
    dotted = {**_DOTTED, **{f"{part}.": part for part in parts}}
    for prefix, part in dotted.items():
        if name.startswith(prefix):
            path = _unwrapped(name.removeprefix(prefix))
            if part == "transformer" and part not in parts and _holds(parts, "text_encoder", path):
                part = "text_encoder"  # FrozenCLIPEmbedder with a flat encoder
            return Claim(_here(part, parts), path)
    return Claim(None, name)


def without_wrapper(
    tensors: Mapping[str, Tensor], parts: dict[str, Network]
) -> Mapping[str, Tensor]:
    """Leaves out a level that is before the names of all tensors and means nothing in the model.

    Numbers do not count: training scripts write steps and epochs beside ``{"ema_unet": {...}}``.
    """
    names = [name for name, tensor in tensors.items() if tensor.ndim]
    (level, *others) = {name.partition(".")[0] for name in names} or {""}
    inner = {name: name.removeprefix(f"{level}.") for name in names}
    if others or not names or _means(names[0], parts):
        return tensors
    if not all(_means(each, parts) for each in inner.values()):
        return tensors
    return {inner.get(name, name): tensor for name, tensor in tensors.items()}


def _means(name: str, parts: dict[str, Network]) -> bool:
    """Says whether a name begins as something of the model does."""
    told = claim(name, parts)
    return told.part in parts or any(each.holds(told.path) for each in parts.values())


def denoiser(parts: dict[str, Network]) -> str:
    """Names the network that draws."""
    return next((part for part in ("transformer", "unet", "model") if part in parts), "unet")


def _holds(parts: dict[str, Network], part: str, path: str) -> bool:
    return part in parts and parts[part].holds(path)


def _here(part: str, parts: dict[str, Network]) -> str:
    """Gives the model's own name of a network; a bare network is whatever a file calls it."""
    if set(parts) == {"model"}:
        return "model"
    if part == "text_encoder_3" and part not in parts:
        return "text_encoder_2"  # kohya's files of FLUX call its T5 te3, as those of SD 3 do
    return denoiser(parts) if part == _DENOISER else part


def _unwrapped(name: str) -> str:
    name = name.replace("_orig_mod.", "")
    while (found := _WRAPPERS.match(name)) is not None:
        name = name[found.end() :]
    return name


def _spellings(path: str) -> Iterator[str]:
    """Lists what a layer's path stands for; diffusers put LoRA layers into processors once."""
    yield path
    plain = path.replace(".processor.", ".")
    yield plain
    yield re.sub(r"(^|\.)to_out$", r"\1to_out.0", plain)
    if found := re.search(r"self_attn\.to_(q|k|v|out)$", plain):
        yield f"{plain[: found.start()]}self_attn.{found[1]}_proj"
