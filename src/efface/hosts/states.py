"""States of a pipeline's networks in which an edit would not reach what draws, each by its name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from efface.errors import BadModel
from efface.hosts.components import TEXT_KEYS, canonical, components

__all__ = [
    "check_editable",
    "check_erasable",
    "check_trainable",
    "fused",
    "refuse_compiled",
    "refuse_parallel",
]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_QUANTISED = (
    *("bitsandbytes", "optimum.quanto", "quanto", "torchao", "torch.ao.nn", "hqq", "gptq"),
    *("auto_gptq", "awq", "aqlm", "eetq", "nunchaku", "compressed_tensors", "sdnq"),
    *("diffusers.quantizers", "transformers.integrations"),
)
"""Packages whose layers hold packed weights, in GGUF files and others."""
_DENOISERS = ("unet", "transformer")
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
_OTHER_PROCESSES = ("LCM", "TCD", "EDM", "ConsistencyModels", "CMStochastic", "CogVideo")
"""Schedulers, by the beginnings of their names, of networks whose noise is not that of DDIM's."""


def check_editable(model: Any, names: Collection[str] | None = None) -> None:
    """Refuses networks whose weights are packed, elsewhere, or not those that the network uses.

    Args:
        model: a pipeline or a network.
        names: which of its networks; all when left out.

    Raises:
        BadModel: with the network, its state, and what to do.
    """
    for name, network in components(model).items():
        if names is not None and name not in names:
            continue
        for path, module in network.named_modules():
            _check_module(f"{name}/{path}", module)
        for path, weight in network.named_parameters():
            _check_weight(name, f"{name}/{path}", weight)
        _check_layers(name, network)


def fused(model: Any, keys: Collection[str]) -> frozenset[str]:
    """Lists what is fused into the weights of the networks that keys name, in words."""
    found = set()
    for name in {key.partition("/")[0] for key in keys}:
        for module in components(model)[name].modules():
            if _draws_fused(module):
                found.add(f"the projections of {name} were fused")
            for adapter in getattr(module, "merged_adapters", ()):
                found.add(f"the LoRA {adapter} was fused into {name}")
    return frozenset(found)


def _draws_fused(module: nn.Module) -> bool:
    """Says whether attention runs by fused projections; diffusers' oldest class keeps the flag."""
    if type(module).__name__ == "Attention":
        return type(getattr(module, "processor", None)).__name__.startswith("Fused")
    return bool(getattr(module, "fused_projections", False))


def _check_layers(name: str, network: nn.Module) -> None:
    """Refuses layers that have no weight where it is edited, or do not use it."""
    named = network.named_parameters(remove_duplicate=False)
    weights = {canonical(path) for path, _ in named}
    reading = [pattern for key, pattern in TEXT_KEYS.items() if key.startswith(f"{name}/")]
    for path, module in network.named_modules():
        own, plain = canonical(f"{path}.weight"), isinstance(module, _LAYERS)
        if own not in weights and (plain or any(each.search(own) for each in reading)):
            raise BadModel(
                f"{name}/{path} ({type(module).__name__}) has no parameter 'weight' of its own, as "
                "under torch.nn.utils.weight_norm or a wrapper, so an edit would pass it over; "
                "take that off (torch.nn.utils.remove_weight_norm), or load the model as it was"
            )
        forward = vars(module).get("forward")
        if forward is None or not plain or hasattr(module, "_hf_hook") or _hooks(module):
            continue
        if getattr(forward, "__func__", None) is not type(module).forward:
            raise BadModel(
                f"{name}/{path} runs another function than its own (its forward was replaced), "
                "which may not use the weight that is edited; take that off, or load the model anew"
            )


def _check_module(where: str, module: nn.Module) -> None:
    if _draws_fused(module):
        raise BadModel(
            f"{where} draws with fused projections, which are copies of the weights that efface "
            "edits; call pipe.unfuse_qkv_projections() first, and fuse again afterwards"
        )
    if type(module).__module__.startswith(_QUANTISED):
        raise _quantised(where, type(module).__name__)
    _check_offloading(where, module)
    if "parametrizations" in module._modules:
        raise BadModel(
            f"{where} computes its weight from others (torch.nn.utils.parametrize); remove that "
            "with torch.nn.utils.parametrize.remove_parametrizations first"
        )


def _check_offloading(where: str, module: nn.Module) -> None:
    """Refuses groups of layers whose weights are read back from a copy, without what was edited."""
    group = getattr(_hooks(module).get("group_offloading"), "group", None)
    if group is None:
        return
    copies = "files" if group.offload_to_disk_path is not None else "copies for its stream"
    if copies == "files" or group.stream is not None:
        raise BadModel(
            f"{where} is offloaded in groups (enable_group_offload) and read back from {copies}, "
            "which an edit would not reach; load the model without that, edit it, and offload "
            "it afterwards"
        )


def _hooks(module: nn.Module) -> Mapping[str, Any]:
    """Gives diffusers' own hooks on a module by name."""
    return getattr(getattr(module, "_diffusers_hook", None), "hooks", {})


def _check_weight(name: str, where: str, weight: Tensor) -> None:
    if weight.is_meta:
        raise BadModel(
            f"{where} holds no values: the weights are offloaded and come only while the network "
            f"runs; call accelerate.hooks.remove_hook_from_module(pipe.{name}, recurse=True), or "
            "load the model without sequential offloading or device_map (enable_model_cpu_offload "
            "is fine)"
        )
    if type(weight.data) is not Tensor:
        raise _quantised(where, type(weight.data).__name__)
    if weight.dtype not in _FLOATS:
        raise _quantised(where, str(weight.dtype).removeprefix("torch."))
    if weight.is_inference():
        raise BadModel(
            f"{where} was made in torch.inference_mode, and such weights cannot be changed; load "
            "the model outside of it"
        )


def _quantised(where: str, kind: str) -> BadModel:
    return BadModel(
        f"{where} is quantised ({kind}), where small changes of weights are lost or never used; "
        "load the model in float16, bfloat16 or float32, edit it, and quantise afterwards"
    )


def check_erasable(model: Any) -> None:
    """Refuses pipelines in which other weights than those that efface edits read the text, too.

    Raises:
        BadModel: with the network, its state, and what to do; see also `check_editable`.
    """
    named = components(model)
    for name, network in named.items():
        if name in _DENOISERS:
            check_editable(model, (name,))
            _check_additions(name, network)
            _check_hooks(name, network)
        elif name.startswith("text_encoder"):
            _check_additions(name, network)
            for path, weight in network.named_parameters():
                if weight.is_meta:
                    _check_weight(name, f"{name}/{path}", weight)
            for path, module in network.named_modules():
                _check_offloading(f"{name}/{path}", module)
        elif len(named) > 1 and any(_readers(network)):
            raise BadModel(
                f"the pipeline's {name} reads the prompt by layers of its own "
                f"({next(_readers(network))}), which would keep the concept; erase on the "
                f"pipeline without {name}, apply the delta here, and know that {name} is as it was"
            )


def check_trainable(model: Any, network: Any) -> None:
    """Refuses networks that training cannot ask as a text-to-image denoiser of noise or velocity.

    Raises:
        BadModel: it reads more than latents and text, or denoises by another process.
    """
    refuse_compiled(network, "the denoiser")
    config = network.config
    reads = int(config.in_channels)
    gives = int(getattr(config, "out_channels", None) or reads)
    if type(network).__name__ == "QwenImageTransformer2DModel":
        gives *= int(config.patch_size) ** 2  # it reads two by two latents as one, and counts them
    advice = "closed forms (uce, rece, trce) can edit it; or train on the model that it is made of"
    if reads != gives:
        raise BadModel(
            f"the denoiser reads {reads} channels and gives {gives}, so it is given a picture or a "
            f"mask beside the noise (inpainting, pix2pix), which training does not have; {advice}"
        )
    if getattr(config, "time_cond_proj_dim", None) is not None:
        raise BadModel(
            "the denoiser is distilled and reads the guidance as timestep_cond "
            f"(time_cond_proj_dim is {config.time_cond_proj_dim}), as latent consistency models "
            f"do, and training asks it without; {advice}"
        )
    scheduler = type(model.scheduler).__name__
    if scheduler.startswith(_OTHER_PROCESSES):
        raise BadModel(
            f"the pipeline's scheduler is {scheduler}, and training samples as DDIM does, with "
            f"which this network does not go; {advice}, or give the pipeline the scheduler that "
            "the network was trained with"
        )


def _check_additions(name: str, network: nn.Module) -> None:
    if any(getattr(network, part, None) is not None for part in ("encoder_hid_proj", "image_proj")):
        raise BadModel(
            f"{name} has an IP-Adapter, whose own keys and values read pictures; call "
            "pipe.unload_ip_adapter(), erase, and load it again to draw"
        )
    for path, module in network.named_modules():
        if type(module).__module__.startswith("peft.") and getattr(module, "lora_A", None):
            adapters = ", ".join(module.lora_A)
            raise BadModel(
                f"{name} has low-rank layers beside its weights (LoRA {adapters}), which would "
                "keep their part of the concept; call pipe.unload_lora_weights() to erase without "
                "them, or pipe.fuse_lora() and then pipe.unload_lora_weights() to erase both"
            )
        if path.rpartition(".")[2] == "processor" and next(module.parameters(), None) is not None:
            raise BadModel(
                f"{name}/{path} is an attention processor ({type(module).__name__}) with weights "
                "of its own; call set_default_attn_processor() on the network, or load the model "
                "without it"
            )


def _check_hooks(name: str, network: nn.Module) -> None:
    """Refuses what makes a network give other values than its weights do, outside of pipelines."""
    for path, module in network.named_modules():
        for hook in _hooks(module):
            if hook == "layerwise_casting":
                raise BadModel(
                    f"{name}/{path} is cast to another dtype when it runs (layerwise casting), and "
                    "its weights are kept in fewer bits; load the model without that, edit it, "
                    "and cast it afterwards"
                )
            if "cache" in hook or hook.startswith(("fbc_", "pyramid_attention")):
                raise BadModel(
                    f"{name}/{path} may answer from a cache ({hook}) instead of its weights; call "
                    f"pipe.{name}.disable_cache(), erase, and enable it again to draw"
                )


def _readers(network: nn.Module) -> Iterator[str]:
    """Lists weights that read text, wherever in a network they are."""
    for path, _ in network.named_parameters():
        if any(pattern.search(path) for pattern in TEXT_KEYS.values()):
            yield path


def refuse_compiled(model: Any, name: str) -> None:
    """Refuses a compiled network where layers come beside its own: it would run without them.

    Raises:
        BadModel: naming the network.
    """
    given = model if isinstance(model, nn.Module) else getattr(model, name)
    for module in given.modules():
        if "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None):
            raise BadModel(
                f"{name} is compiled (torch.compile) and would run without the layers that are put "
                "beside its own; use the pipeline as it was before, and compile it afterwards"
            )


def refuse_parallel(model: Any) -> None:
    """Refuses a network that is spread over devices: the pipeline itself cannot draw with it.

    Raises:
        BadModel: naming the network, and how it is taken out again.
    """
    parts = getattr(model, "components", None)
    for name, part in (parts if isinstance(parts, dict) else {}).items():
        if isinstance(part, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise BadModel(
                f"{name} is wrapped in {type(part).__name__}, which hides its config from the "
                f"pipeline; set pipe.{name} = pipe.{name}.module first, and wrap it again after"
            )
