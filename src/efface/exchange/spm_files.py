"""SPM's published file: kohya's tensors by diffusers' names, and the erased prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from efface.concepts import Concept, Erasure, ErasureRequest
from efface.deltas.delta import Delta
from efface.deltas.gates import PromptGate
from efface.diffusion.denoising import Denoiser
from efface.errors import BadRequest
from efface.exchange.headers import model_fields, saved
from efface.exchange.low_rank import Layers, full_refused
from efface.files import write_atomically
from efface.hosts.components import canonical
from efface.hosts.shards import is_safetensors
from efface.runs.gating import GateRule, gate_for
from efface.runs.gradient_eraser import worded

__all__ = ["ALWAYS", "erased_prompts", "gate_from", "prompts_of", "write_spm"]

ALWAYS = "efface_acts_on_every_prompt"
"""Set in the header of files whose delta had no gate, so that import gives them none."""


def write_spm(
    layers: Layers,
    path: Path,
    facts: Mapping[str, str],
    *,
    prompts: Sequence[str],
    gated: bool = True,
) -> Path:
    """Writes the file that the SPM authors' tools, and stock diffusers without a gate, read.

    Alpha is the rank, as in the published files, where both are 1. The layout has no room for a
    gate: the authors' tools make one from ``prompts``, others leave the membrane open.

    Args:
        layers: what changes, of a U-Net and of one rank throughout.
        path: where the file goes.
        facts: written into the file's header besides.
        prompts: what is erased.
        gated: whether the delta opens by prompt; otherwise the header says that it always acts,
            so that `efface.import_delta` makes no gate.

    Raises:
        BadRequest: another network, several ranks, no prompt, or a comma in one, where the
            authors' tools would cut it in two.
    """
    if layers.full:
        raise full_refused(tuple(layers.full))
    if layers.component != "unet":
        raise BadRequest(
            f"SPM's layout holds a U-Net and the delta changes {layers.component}; "
            "export it with --as diffusers-lora"
        )
    ranks = sorted({layer.rank for layer in layers.by_module.values()})
    if len(ranks) != 1:
        raise BadRequest(
            f"SPM's layout has one rank for all layers and the delta has {ranks}; cut it with "
            "--rank N, or export it with --as kohya"
        )
    split = [prompt for prompt in prompts if "," in prompt]
    if split or not prompts:
        raise BadRequest(
            f"SPM's layout needs erased prompts without commas and was given {list(prompts)}; "
            "export it with --as kohya"
        )
    tensors: dict[str, Tensor] = {}
    for module, layer in layers.by_module.items():
        name = f"lora_unet_{canonical(module).replace('.', '_')}"
        up, down = layer.shaped()
        tensors[f"{name}.lora_down.weight"] = down.clone()
        tensors[f"{name}.lora_up.weight"] = up.clone()
        tensors[f"{name}.alpha"] = torch.tensor(float(ranks[0]))
    facts = {**facts, **({} if gated else {ALWAYS: "1"})}
    header = {"rank": str(ranks[0]), "alpha": str(float(ranks[0])), "prompts": ",".join(prompts)}
    write_atomically(path, saved(tensors, {**model_fields(layers), **facts, **header}))
    return path


def prompts_of(delta: Delta) -> tuple[str, ...]:
    """Lists what an SPM file of a delta names: an imported file's own prompts, or the concepts."""
    settings = delta.provenance.settings
    told = settings.get("opens_for") or settings.get("prompts")
    erasures = delta.provenance.request.get("erasures", ())
    return tuple(told or (each["concept"]["name"] for each in erasures))


def erased_prompts(file: Path) -> tuple[str, ...]:
    """Lists the erased prompts that a file's header names, parted by commas; none in other files.

    Args:
        file: a readable file.
    """
    if not is_safetensors(file):
        return ()
    with safe_open(file, framework="pt") as opened:
        told: str = (opened.metadata() or {}).get("prompts", "")
    return tuple(dict.fromkeys(prompt.strip() for prompt in told.split(",") if prompt.strip()))


def gate_from(
    prompts: Sequence[str], model: Any, request: ErasureRequest, rule: GateRule
) -> PromptGate | None:
    """Makes the gate of a file's membranes with the texts of the model that they will work on.

    A file is one membrane, of any rank, that opens for the likest of its prompts (section 3.4).

    Args:
        prompts: what the file erases.
        model: a pipeline with its tokenizers and text encoders.
        request: tells of what kind the prompts are, and what is kept.
        rule: how it opens.
    """
    kinds = {erasure.concept.name: erasure.concept.kind for erasure in request.erasures}
    usual = request.erasures[0].concept.kind
    concepts = [Concept(name=prompt, kind=kinds.get(prompt, usual)) for prompt in prompts]
    wordings = [each for one in concepts for each in worded(Erasure(concept=one), "anchor")]
    owners = torch.zeros(len(wordings), dtype=torch.long)
    return gate_for(Denoiser(model), wordings, owners, request.keep, rule=rule)
