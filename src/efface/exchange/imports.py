"""Other people's edits as deltas: edited layers, LoRA files, whole edited networks."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from efface.concepts import ErasureRequest, described
from efface.deltas.application import parents_of
from efface.deltas.base_prints import base_prints
from efface.deltas.delta import Delta
from efface.deltas.patches import DensePatch, LowRankPatch, Patch
from efface.deltas.provenance import Provenance, base_sketch
from efface.deltas.recording import model_name
from efface.errors import BadDelta, MissingInput
from efface.exchange.lora_keys import LoraLayers, lora_layers
from efface.exchange.spm_files import erased_prompts, gate_from
from efface.hosts.components import canonical, component
from efface.randomness import environment
from efface.runs.gating import GateKind, GateRule, Unconditional

__all__ = ["Imported", "import_delta"]

Part: TypeAlias = Literal["unet", "transformer", "text_encoder"]
_WRAPPERS = ("state_dict", "unet", "model", "module")
"""Names under which files keep their tensors one level down."""


@dataclass(frozen=True)
class Imported:
    """An edit read from a file."""

    delta: Delta
    layout: str
    """What the file was: ``SPM``, ``LoRA`` or ``edited weights``."""
    unused: tuple[str, ...]
    """Keys of the file that belong to nothing in the model."""

    @property
    def opens_for(self) -> tuple[str, ...]:
        """Prompts of the file that its gate opens for; without any, it acts on every prompt."""
        return tuple(self.delta.provenance.settings.get("opens_for", ()))


def import_delta(
    source: Path | str,
    model: Any,
    request: ErasureRequest,
    *,
    part: Part = "unet",
    gate: GateKind = "linear",
    unconditional: Unconditional = "own",
) -> Imported:
    """Reads an edit that another tool made as a delta against its base.

    Understood are LoRA files (diffusers, peft and kohya layouts), safetensors or ``.pt`` files with
    edited weights by parameter name (ESD, UCE, RECE and whole networks), and diffusers folders of
    an edited network. Pickles are read with ``weights_only`` alone, so that they can run nothing.
    A LoRA file of a U-Net whose header names erased prompts is SPM's: its membranes get a gate.

    Args:
        source: file or folder.
        model: the base that the edit was made for.
        request: what it is said to erase; nothing is checked against it here.
        part: the network that edited weights belong to.
        gate: how membranes of SPM open: for prompts like the erased ones, squared as in the
            released code, or always.
        unconditional: whether the prediction without the prompt opens them by its own text or, as
            in the released code, as the prompt does.

    Raises:
        MissingInput: there is nothing at ``source``.
        BadDelta: the file is damaged or unsafe, its keys match nothing of the model, a tensor has
            another shape, or nothing differs from the base.
    """
    file = _file(Path(source))
    tensors = _read(file)
    layers = lora_layers(tensors, model)
    if layers is not None:
        patches: dict[str, Patch] = dict(_low_rank(layers, model))
        layout, unused = "LoRA", tuple(name for name in tensors if name not in layers.used)
    else:
        patches, unused = _edited(tensors, model, part)
        layout = "edited weights"
    if not patches:
        raise BadDelta(
            f"no weight in {file.name} differs from the base; give the base it was made from"
        )
    of_unet = layout == "LoRA" and all(key.startswith("unet/") for key in patches)
    prompts = erased_prompts(file) if of_unet else ()
    layout = "SPM" if prompts else layout
    facts: dict[str, Any] = {"file": file.name, "sha256": _sha256(file), "layout": layout}
    opening = None
    if prompts and gate != "none":
        rule = GateRule(kind=gate, unconditional=unconditional, names_alone=True)
        opening = gate_from(prompts, model, request, rule)
        facts |= {"gate": gate, "unconditional": unconditional, "opens_for": list(prompts)}
    provenance = _provenance(facts, model, request, tuple(patches))
    return Imported(Delta(patches=patches, provenance=provenance, gate=opening), layout, unused)


def _provenance(
    facts: Mapping[str, Any], model: Any, request: ErasureRequest, keys: tuple[str, ...]
) -> Provenance:
    ran = environment()
    return Provenance(
        method="import",
        revision=1,
        settings=facts,
        request=described(request),
        seed=0,
        base_model=model_name(model),
        base_sketch=base_sketch(model, keys),
        base_prints=base_prints(model),
        versions=ran.versions,
        commit=ran.commit,
        dirty=ran.dirty,
        parents=parents_of(model),
    )


def _file(source: Path) -> Path:
    if source.is_file():
        return source
    if not source.is_dir():
        raise MissingInput(f"there is no file or folder {source} to import")
    for pattern in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors"):
        if (source / pattern).is_file():
            return source / pattern
    found = sorted(source.glob("*.safetensors")) or sorted(source.glob("unet/*.safetensors"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise MissingInput(
            f"{source} should hold one safetensors file to import (it holds: {names}); name one"
        )
    return found[0]


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        held = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError) as error:
        raise BadDelta(f"{file} is damaged ({error}); copy it again") from error
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise BadDelta(
            f"{file} is a pickle that holds more than tensors and is not read ({reason}); "
            "ask for safetensors"
        ) from error
    while isinstance(held, Mapping) and (inner := _wrapped(held)) is not None:
        held = inner
    if not isinstance(held, Mapping):
        raise BadDelta(f"{file} holds a {type(held).__name__} and no tensors by name")
    return {str(name): value for name, value in held.items() if isinstance(value, Tensor)}


def _wrapped(held: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
    inner = next((held[name] for name in _WRAPPERS if name in held), None)
    return inner if isinstance(inner, Mapping) else None


def _edited(
    tensors: Mapping[str, Tensor], model: Any, part: Part
) -> tuple[dict[str, Patch], tuple[str, ...]]:
    """Takes the difference to the base wherever a tensor names a weight of the network."""
    weights = {
        canonical(path): weight for path, weight in component(model, part).named_parameters()
    }
    patches: dict[str, Patch] = {}
    unused = []
    for name, value in tensors.items():
        path = next((each for each in _spellings(name, part) if each in weights), None)
        if path is None:
            unused.append(name)
            continue
        weight = weights[path].detach()
        if value.shape != weight.shape:
            raise BadDelta(
                f"'{name}' has shape {tuple(value.shape)} and {part}/{path} of the base has "
                f"{tuple(weight.shape)}; the file is for another model"
            )
        difference = value.to(weight.device, torch.float32) - weight.to(torch.float32)
        if bool((difference != 0).any()):
            patches[f"{part}/{path}"] = DensePatch(difference)
    if len(unused) == len(tensors):
        theirs, ours = sorted(tensors)[:2], sorted(weights)[:2]
        raise BadDelta(
            f"no key of the file names a weight of the base's {part}: it has {', '.join(theirs)} "
            f"..., the model {', '.join(ours)} ...; the file is for another kind of model"
        )
    return patches, tuple(unused)


def _spellings(name: str, part: str) -> list[str]:
    """Lists what a key may stand for: with or without the network's name before it."""
    plain = canonical(name)
    bare = plain.removeprefix(f"{part}.").removeprefix("module.").removeprefix("model.")
    return [plain, bare, f"{bare}.weight"]


def _low_rank(layers: LoraLayers, model: Any) -> dict[str, Patch]:
    found: dict[str, Patch] = {}
    for key, (up, down) in layers.by_key.items():
        part, _, path = key.partition("/")
        named = {canonical(p): w for p, w in component(model, part).named_parameters()}
        weight = named[path]
        inner = weight[0].numel()
        if (len(up), down[0].numel()) != (len(weight), inner):
            raise BadDelta(
                f"the LoRA changes {key} as a {len(up)} x {down[0].numel()} matrix, the base has "
                f"{len(weight)} x {inner} there; the file is for another model"
            )
        found[key] = LowRankPatch(up=up.flatten(1).float(), down=down.flatten(1).float())
    return found


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
