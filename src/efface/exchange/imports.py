"""Other people's edits as deltas: edited layers, LoRA files, whole edited networks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from efface.concepts import ErasureRequest, described
from efface.deltas.application import parents_of
from efface.deltas.base_prints import base_prints
from efface.deltas.delta import Delta
from efface.deltas.patches import LowRankPatch, Patch
from efface.deltas.provenance import Provenance, base_sketch
from efface.deltas.recording import model_name
from efface.errors import BadDelta, BadModel, BadRequest
from efface.exchange.own_files import own_delta
from efface.exchange.reading import Reading, read
from efface.exchange.sources import Place, find_places, header_of
from efface.exchange.spm_files import ALWAYS, erased_prompts, gate_from
from efface.plain_values import place
from efface.randomness import as_usual, environment
from efface.runs.gating import GateKind, GateRule, Unconditional

__all__ = ["Imported", "import_delta"]

Part: TypeAlias = Literal[
    "unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"
]


@dataclass(frozen=True)
class Imported:
    """An edit read from a file."""

    delta: Delta
    layout: str
    """What it was: ``SPM``, ``DoRA``, ``LoRA``, ``edited weights``, ``a delta of efface``."""
    unused: tuple[str, ...]
    """Keys of the file that belong to nothing in the model, or to parts that were not asked for."""
    notes: tuple[str, ...] = ()
    """What the file does not say and was taken for granted."""

    @property
    def opens_for(self) -> tuple[str, ...]:
        """Prompts of the file that its gate opens for; without any, it acts on every prompt."""
        return tuple(self.delta.provenance.settings.get("opens_for", ()))


@as_usual()
def import_delta(
    source: Path | str,
    model: Any,
    request: ErasureRequest,
    *,
    part: Part | None = None,
    gate: GateKind = "linear",
    unconditional: Unconditional = "own",
) -> Imported:
    """Reads an edit that another tool made as a delta against its base.

    Understood are LoRA and DoRA files (diffusers, peft and kohya layouts, with alphas in tensors,
    header or ``adapter_config.json``), safetensors or pickled files with edited weights by name
    (ESD, UCE, RECE and whole networks), and diffusers folders of an edited network or pipeline.
    Several networks make one delta; one of this package stays as it is. Pickles are read with
    ``weights_only`` alone, so that they can run nothing. Every key is read, or refused if it is of
    something that the model has; what belongs to nothing is listed. A LoRA file of a U-Net whose
    header names erased prompts is SPM's: its membranes get a gate.

    Args:
        source: file or folder.
        model: the base it was made for.
        request: what it is said to erase; nothing is checked against it here.
        part: the one network to read; by default all that the file is of.
        gate: how membranes of SPM open: for prompts like the erased ones, squared as in the
            released code, or always.
        unconditional: whether the prediction without the prompt opens them by its own text or as
            the prompt does.

    Raises:
        MissingInput: there is nothing at ``source``, or the model has no such part.
        BadRequest: a delta of this package is to be read in part, or an argument is of no kind.
        BadDelta, BadModel: the model is streamed or cannot be edited; or the file is unsafe, does
            not fit the model, is not understood in whole, or changes nothing.
    """
    _check_choices(request, gate, unconditional)
    if own := own_delta(source := place("the source", source), model, request):
        return _as_it_is(own, chosen=(part, gate, unconditional) != (None, "linear", "own"))
    places = _places(source, model)
    reading = read(places, model, part)
    patches = reading.patches
    one = places[0].files[0] if len(places) == len(places[0].files) == 1 else None
    name = (one or source).name
    if not patches:
        raise _without_change(reading, name)
    prompts = _prompts(reading, one)
    layout = "SPM" if prompts else reading.layout
    facts: dict[str, Any] = {"file": name, "sha256": _sha256(places), "layout": layout}
    opening, ungated = None, dict[str, Patch]()
    if prompts and (gate == "none" or ALWAYS in header_of(places[0].files[0])):
        facts |= {"gate": "none", "prompts": list(prompts)}
    elif prompts:
        rule = GateRule(kind=gate, unconditional=unconditional, names_alone=True)
        opening = gate_from(prompts, model, request, rule)
        facts |= {"gate": gate, "unconditional": unconditional, "opens_for": list(prompts)}
        ungated = {key: p for key, p in patches.items() if not isinstance(p, LowRankPatch)}
        patches = {key: p for key, p in patches.items() if key not in ungated}
    provenance = _provenance(facts, model, request, (*patches, *ungated))
    made = Delta(patches=patches, provenance=provenance, gate=opening, ungated=ungated)
    return Imported(made, layout, tuple(reading.unused), tuple(reading.notes))


def _check_choices(request: Any, gate: str, unconditional: str) -> None:
    if not isinstance(request, ErasureRequest):
        raise BadRequest(
            f"the request is a {type(request).__name__}; write what the file erases as "
            "efface.request('pistol')"
        )
    for given, kinds in ((gate, GateKind), (unconditional, Unconditional)):
        if given not in get_args(kinds):
            raise BadRequest(f"{given!r:.40} is none of: {', '.join(get_args(kinds))}")


def _places(source: Path, model: Any) -> list[Place]:
    if hasattr(model, "embedded_prompts"):
        raise BadModel(
            "the model runs from its folder (efface.stream), which holds few of the weights that a "
            "file may change; load it whole: efface.load"
        )
    return find_places(source)


def _as_it_is(delta: Delta, *, chosen: bool) -> Imported:
    if chosen:
        raise BadRequest(
            "the file is a delta of efface, which has its own parts and gates; leave out part, "
            "gate and unconditional"
        )
    return Imported(delta, "a delta of efface", ())


def _without_change(reading: Reading, name: str) -> BadDelta:
    why = (
        "all its LoRA layers multiply out to 0, as before training or with an alpha of 0"
        if reading.low_rank
        else "give the base it was made from"
    )
    return BadDelta(f"no weight in {name} differs from the base; {why}")


def _prompts(reading: Reading, file: Path | None) -> tuple[str, ...]:
    """Lists the prompts that open a file's membranes, if it is SPM's: one file, of a U-Net."""
    of_unet = reading.low_rank and all(key.startswith("unet/") for key in reading.patches)
    prompts = erased_prompts(file) if file is not None and of_unet else ()
    if prompts and reading.decomposed:
        raise BadDelta(
            f"the header names erased prompts, as SPM's do, and {reading.decomposed[0]} is changed "
            "by DoRA, which no gate opens in part; ask for merged weights"
        )
    return prompts


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


def _sha256(places: list[Place]) -> str:
    """Hashes a file, or the hashes of several in order."""
    digests = [_digest(file) for place in places for file in place.files]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
