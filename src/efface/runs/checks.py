"""After every erasure: did anything happen, is anything broken."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface import registry
from efface.concepts import ErasureRequest, request_from, wordings
from efface.deltas.delta import Delta
from efface.deltas.patches import TextMapPatch
from efface.deltas.results import ErasureResult
from efface.deltas.row_maps import RowMap, mapped
from efface.diffusion.denoising import Denoiser
from efface.errors import BadModel, ModelCollapsed, NothingChanged
from efface.hosts.components import find
from efface.hosts.families import FAMILIES, host_of, layout, refuse_family
from efface.hosts.streams import TextStream
from efface.randomness import derive
from efface.runs.recipe import Recipe
from efface.text.branches import text_branches

__all__ = ["Inspection", "check_family", "finish", "inspect", "stamped"]

NOTHING = 1e-4
"""Relative response below which a concept counts as untouched; rounding in float32 reaches 1e-6."""
COLLAPSE = 0.75
"""Relative response of other prompts from which on a model counts as wrecked. Sound erasures of the
bundled model stay below 0.25, and zeroed keys and values give 1.0 (benchmarks/collapse.py)."""
EMPTIED = 0.01
"""Share of a layer's weights, by norm, below which nothing is left of it."""
BESIDE = (
    "the erasure is a map of text rows beside the weights, which are those of the base: whoever "
    "runs the pipeline can leave it out, and then the concept is back"
)
"""What cards say of maps of rows."""
PROBES = 8
"""Prompts per side at most."""
OUTPUTS = 32
"""Rows of a weight, evenly strided, that stand for all of it where all are changed alike."""


@dataclass(frozen=True)
class Inspection:
    """What the detectors measured."""

    weight_change: float
    """Size of the change of all touched weights, relative to their size."""
    erased_response: float
    """Mean relative change of what the model makes of the erased concepts' prompts."""
    kept_response: float
    """The same for the kept concepts' prompts and the empty prompt."""
    probe: str
    """What was compared: ``keys and values``, ``layers that read text``, ``predicted noise`` or,
    without text, ``weights``."""


def check_family(name: str, families: Collection[str], family: str) -> None:
    """Refuses a family that a method does not edit, and names the methods that do.

    Args:
        name: of the method.
        families: that it edits.
        family: of the model.

    Raises:
        BadRequest: naming the method, the family, what it edits, and the methods that edit this.
    """
    if family not in families:
        others = [
            each
            for each in registry.list_methods()
            if family in getattr(registry.load("methods", each), "families", ())
        ]
        refuse_family(name, families, family, others=others)


def inspect(model: Any, delta: Delta, request: ErasureRequest) -> Mapping[str, Any]:
    """Applies a delta for a moment and compares what the model makes of prompts.

    Returns:
        The fields of `Inspection`, for the result's diagnostics.

    Raises:
        NothingChanged: no weight changed, or the concepts' prompts give what they gave.
        ModelCollapsed: a value is not finite, or other prompts give something entirely new.
    """
    change = _weight_change(model, delta)
    probe = _probe(model, delta)
    if probe == "weights":
        return asdict(Inspection(change, change, 0.0, probe))
    erased = [wording for e in request.erasures for wording in wordings(e.concept)[:PROBES]]
    kept = ["", *(wordings(concept)[0] for concept in request.keep[: PROBES - 1])]
    look = _moved_noise if probe == "predicted noise" else _moved_projections
    moved = look(model, delta, [*erased, *kept])
    seen = Inspection(
        change, float(moved[: len(erased)].mean()), float(moved[len(erased) :].mean()), probe
    )
    _judge(seen, delta)
    if probe != "predicted noise":
        _check_output_moves(model, delta, erased[0])
    return asdict(seen)


def finish(model: Any, result: ErasureResult, recipe: Recipe, **facts: Any) -> ErasureResult:
    """Ends every run: inspects what its delta does, and writes down how it came about.

    Args:
        model: what the delta is for, without it.
        result: what the method made.
        recipe: everything that decided it.
        **facts: further diagnostics.

    Raises:
        NothingChanged, ModelCollapsed: see `inspect`.
    """
    request = request_from(result.delta.provenance.request)
    diagnostics = {**result.diagnostics, **inspect(model, result.delta, request), **facts}
    if result.delta.row_maps:
        diagnostics["notes"] = (*diagnostics.get("notes", ()), BESIDE)
    return stamped(replace(result, diagnostics=diagnostics), recipe)


def stamped(result: ErasureResult, recipe: Recipe) -> ErasureResult:
    """Writes down how a result came about."""
    provenance = replace(result.delta.provenance, recipe=recipe.noted())
    delta = replace(result.delta, provenance=provenance)
    return replace(result, delta=delta, recipe=recipe.written(), command=recipe.command())


def _weight_change(model: Any, delta: Delta) -> float:
    """Sizes the change itself, before it is applied."""
    change, size = 0.0, 0.0
    for key in delta.keys:
        for name, parameter in find(model, key).items():
            weight, share = _outputs(delta, name, parameter)
            moved = delta.difference(name, weight)
            _refuse_emptied(name, weight, moved)
            change += share * float((moved**2).sum())
            size += share * float((weight**2).sum())
    if not change < float("inf"):
        raise ModelCollapsed(
            "the erasure changed weights to values that are not finite; "
            f"{_advice(delta, 'weakened_by', 'use float32')}"
        )
    if change == 0.0 and not delta.row_maps:
        raise NothingChanged(
            "the erasure changed no weight; check that the concept differs from its anchor, "
            f"{_advice(delta, 'strengthened_by', 'name another concept')}"
        )
    return float((change / max(size, 1e-300)) ** 0.5)


def _refuse_emptied(name: str, weight: Tensor, change: Tensor) -> None:
    """Refuses an edit that leaves nothing of a layer, whatever kind of model it is in.

    Raises:
        ModelCollapsed: naming the layer.
    """
    size = float(weight.norm())
    left = float((weight + change).norm())
    if weight.ndim > 1 and size > 0 and left < EMPTIED * size:
        raise ModelCollapsed(
            f"the erasure leaves {left / size:.1%} of the weights of {name}, so the layer is gone; "
            "raise the ridge or lower the strength"
        )


def _probe(model: Any, delta: Delta) -> str:
    """Chooses the cheapest comparison that sees every change."""
    if layout(model) not in FAMILIES or getattr(model, "text_encoder", None) is None:
        return "weights"
    names = {name for key in delta.keys for name in find(model, key)}
    readers = {name for each in text_branches(model) for name in find(model, each.key)}
    if all(name.startswith("text_encoder") or name in readers for name in names):
        attention = all(each.key.endswith("/key_value") for each in text_branches(model))
        return "keys and values" if attention else "layers that read text"
    return "predicted noise" if host_of(model).predicts else "weights"


def _outputs(delta: Delta, key: str, parameter: Tensor) -> tuple[Float[Tensor, "*shape"], float]:
    """Gives a weight in float64, and how many rows each row stands for.

    A map of the text side does the same to every output, so that `OUTPUTS` of them tell enough.
    """
    weight = parameter.detach()
    step = 1
    if all(isinstance(patch, TextMapPatch) for patch in delta.covering(key)):
        step = max(1, len(weight) // OUTPUTS)
    taken = weight[::step]
    return taken.to("cpu", torch.float64), len(weight) / len(taken)


def _moved_projections(model: Any, delta: Delta, prompts: Sequence[str]) -> Float[Tensor, " n"]:
    """Measures the relative change of what all text layers make of each prompt, layer by layer.

    Branches count alike, so that one pooled row is not lost among all rows of tokens. Nothing is
    applied unless a text encoder is changed: ``W' x - W x = D x``.
    """
    branches = text_branches(model)
    before = [stream.embedded(prompts) for each in branches for stream in each.streams]
    after = list(before)
    if any(key.startswith("text_encoder") for key in delta.keys):
        with delta.apply(model):
            again = [stream for each in text_branches(model) for stream in each.streams]
            after = [stream.embedded(prompts) for stream in again]
    shares = []
    for branch in branches:
        moved = size = torch.zeros(len(prompts), dtype=torch.float64)
        for stream in branch.streams:
            rows, changed = before.pop(0), after.pop(0)
            if maps := delta.row_maps.get(branch.key):
                changed = _mapped(stream, maps, prompts, changed)
            for key, parameter in find(model, branch.key).items():
                weight, share = _outputs(delta, key, parameter)
                change = changed @ delta.difference(key, weight)[:, : branch.width].T
                if changed is not rows:
                    change += (changed - rows) @ weight[:, : branch.width].T
                moved = moved + share * (change**2).sum((1, 2))
                size = size + share * ((rows @ weight[:, : branch.width].T) ** 2).sum((1, 2))
        shares.append(moved / size.clamp(min=1e-300))
    return torch.stack(shares).mean(0).sqrt()


def _mapped(
    stream: TextStream,
    maps: Sequence[RowMap],
    prompts: Sequence[str],
    rows: Float[Tensor, "n tokens dim"],
) -> Float[Tensor, "n tokens dim"]:
    """Maps rows as a denoiser reads them: without a stream's weight, and no hidden padding."""
    factor = getattr(stream, "factor", 1.0)
    found = mapped(maps, rows / factor) * factor
    if not stream.pooled:
        for place, prompt in enumerate(prompts):
            read = stream.tokenised(prompt).read
            found[place, read:] = rows[place, read:]
    return found


def _moved_noise(model: Any, delta: Delta, prompts: Sequence[str]) -> Float[Tensor, " n"]:
    before = _predicted_noise(model, prompts)
    with delta.apply(model):
        after = _predicted_noise(model, prompts)
    return _relative(before, after)


def _predicted_noise(model: Any, prompts: Sequence[str]) -> Float[Tensor, "n values"]:
    """Runs the denoiser once per prompt, on the same noise at the middle of the way."""
    denoiser = Denoiser(model)
    drawn = torch.randn((1, *denoiser.latent_shape), generator=derive(0, "inspection"))
    noise = drawn.to(denoiser.device, denoiser.dtype)
    half = torch.tensor([500.0], dtype=torch.float64)
    with denoiser.inference_mode():
        found = [denoiser.predict(noise, half, denoiser.conditions([one])) for one in prompts]
    return torch.cat(found).flatten(1).to("cpu", torch.float64)


def _check_output_moves(model: Any, delta: Delta, prompt: str) -> None:
    """Runs the denoiser itself: changed weights that it does not use change nothing.

    One that runs from its folder is not there to be run, and can have been changed by nothing.
    """
    if hasattr(model, "embedded_prompts"):
        return
    before = host_of(model).probe(prompt)
    if not bool(before.isfinite().all()):
        raise BadModel(
            f"the denoiser's output for '{prompt}' is not finite before any edit; the model is "
            "damaged, or overflows in its dtype: load it in float32 or bfloat16"
        )
    with delta.apply(model):
        after = host_of(model).probe(prompt)
    if torch.equal(before, after):
        raise NothingChanged(
            f"the weights that read '{prompt}' change and what the denoiser makes of it does not, "
            "by one bit; something in this pipeline draws with other weights (a processor, a hook "
            "or a compiled copy), so erase on the pipeline as it was loaded"
        )
    if not bool(after.isfinite().all()):
        raise ModelCollapsed(
            f"after the erasure the denoiser's output for '{prompt}' is not finite; "
            "raise the ridge, lower the strength or use float32"
        )


def _relative(
    before: Float[Tensor, "n values"], after: Float[Tensor, "n values"]
) -> Float[Tensor, " n"]:
    moved: Tensor = (after - before).norm(dim=1) / before.norm(dim=1).clamp(min=1e-300)
    return moved


def _advice(delta: Delta, way: str, *others: str) -> str:
    """Asks the method of a delta, or those of its stages, which of their settings help."""
    if delta.provenance.method == "import":
        return "give the base that the file was made from, and name what it erases"
    known = {entry.name for entry in registry.entries("methods")}
    methods = [
        registry.load("methods", n) for n in delta.provenance.method.split("+") if n in known
    ]
    helpful = [each for method in methods for each in getattr(method, way)]
    *first, last = dict.fromkeys([*helpful, *others])
    return f"{', '.join(first)} or {last}" if first else last


def _judge(seen: Inspection, delta: Delta) -> None:
    if not seen.erased_response + seen.kept_response < float("inf"):
        raise ModelCollapsed(
            f"after the erasure the {seen.probe} are not finite; "
            f"{_advice(delta, 'weakened_by', 'use float32')}"
        )
    if seen.erased_response < NOTHING:
        raise NothingChanged(
            f"the {seen.probe} of the erased concept's prompts changed by "
            f"{seen.erased_response:.1e}, which is rounding; "
            f"{_advice(delta, 'strengthened_by', 'word the concept as the model knows it')}"
        )
    if seen.kept_response >= COLLAPSE:
        raise ModelCollapsed(
            f"the {seen.probe} of kept prompts changed by {seen.kept_response:.0%}, so the model "
            f"is wrecked; {_advice(delta, 'weakened_by', 'keep more concepts')}"
        )
