"""Applying deltas to a live model and taking them off again, exactly."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.deltas.empty_prompt import encoders_of, keep_original, refuse_in_weights
from efface.deltas.gates import attach_gated, gates_shut
from efface.deltas.patches import finite
from efface.deltas.provenance import SKETCH_TOLERANCE, sketch, sketch_deviation
from efface.deltas.row_maps import attach_row_maps, refuse_row_maps
from efface.deltas.whole import one_at_a_time, uninterrupted, write
from efface.errors import BadDelta
from efface.hosts.components import components, find
from efface.hosts.states import check_editable, fused

if TYPE_CHECKING:
    from efface.deltas.delta import Delta

__all__ = [
    "AppliedDelta",
    "applied_to",
    "apply",
    "merge_into",
    "parents_of",
    "references",
    "unedited",
]

_MARK = "efface_applied"
"""Attribute of a component that lists what is applied to it; absent when nothing is."""


@dataclass(eq=False)
class AppliedDelta:
    """A delta in force; a context manager, or call `revert`."""

    delta: Delta
    scale: float
    model: Any
    saved: dict[str, Tensor]
    """The touched parameters as they were, on the CPU."""
    order: int
    merged: bool = False
    handles: tuple[Any, ...] = ()
    """Hooks of gated layers, which stand beside the weights, of row maps, and of encoders that keep
    the empty prompt."""
    fused: frozenset[str] = frozenset()
    """What was fused into the weights before."""
    thread: threading.Thread = field(default_factory=threading.current_thread)
    """Where it was applied."""

    def __getstate__(self) -> dict[str, Any]:
        """Gives what a copy of an edited model holds; it is in force where the copy was made.

        Raises:
            BadDelta: hooks are part of it, which would act on the model that was copied from.
        """
        if self.handles:
            raise BadDelta(
                f"delta {self.delta.id} is in force by layers beside the weights, which cannot be "
                "copied or pickled with the model; revert it, copy, and apply it to both"
            )
        held = {name: value for name, value in vars(self).items() if name != "thread"}
        return held | {"model": None} if self.merged else held

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Takes what `__getstate__` gave."""
        vars(self).update(state, thread=threading.current_thread())

    def ids(self) -> set[str]:
        """Lists the delta's own id and those of its parts."""
        return {self.delta.id, *self.delta.provenance.parts}

    def revert(self) -> None:
        """Puts the saved tensors back, bit for bit; doing it twice does nothing.

        Raises:
            BadDelta: a delta applied later is still in force, or something was fused into the
                weights meanwhile.
        """
        with one_at_a_time():
            self._revert()

    def _revert(self) -> None:
        applied = applied_to(self.model)
        if self not in applied:
            return
        if later := [other.delta.id for other in applied if other.order > self.order]:
            raise BadDelta(
                f"delta {self.delta.id} cannot be reverted before those applied after it: "
                f"revert {', '.join(reversed(later))} first"
            )
        if new := fused(self.model, self.delta.keys) - self.fused:
            raise BadDelta(
                f"after delta {self.delta.id} was applied, {', '.join(sorted(new))}, with the edit "
                "in it; undo that (pipe.unfuse_lora(), pipe.unfuse_qkv_projections()), then revert"
            )
        write({key: find(self.model, key)[key] for key in self.saved}, self.saved)
        for handle in self.handles:
            handle.remove()
        _unmark(self)

    def __enter__(self) -> AppliedDelta:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.revert()


def applied_to(model: Any) -> tuple[AppliedDelta, ...]:
    """Lists the deltas in force on a model, in the order in which they were applied."""
    found = {record for part in components(model).values() for record in vars(part).get(_MARK, ())}
    return tuple(sorted(found, key=lambda record: record.order))


@contextmanager
def unedited(model: Any) -> Iterator[None]:
    """Runs the body with the base's weights, whatever is applied; merged deltas stay.

    Gates are shut and rows are not mapped meanwhile. Parameters point to what they were before the
    first delta, and back afterwards.
    """
    first: dict[str, Tensor] = {}
    for record in applied_to(model):
        for key, value in record.saved.items():
            if not record.merged:
                first.setdefault(key, value)
    touched = {key: find(model, key)[key] for key in first}
    held = {key: parameter.data for key, parameter in touched.items()}
    try:
        for key, parameter in touched.items():
            parameter.data = first[key].to(parameter.device)
        with gates_shut():
            yield
    finally:
        with uninterrupted():
            for key, parameter in touched.items():
                parameter.data = held[key]


def parents_of(model: Any) -> tuple[str, ...]:
    """Lists the ids that a delta made on this model now must name as parents."""
    return tuple(record.delta.id for record in applied_to(model))


def apply(delta: Delta, model: Any, *, scale: float = 1.0) -> AppliedDelta:
    """Puts a delta in force; see `Delta.apply`."""
    scale = finite(scale)
    with one_at_a_time():
        _check_states(delta, model)
        _check_thread(delta, model)
        _check_empty_prompt(delta, model)
        return _apply(delta, model, scale)


def _apply(delta: Delta, model: Any, scale: float) -> AppliedDelta:
    always, handles = _ungated(delta), list[Any]()
    if delta.gate is not None or delta.row_maps:
        references(delta, model)
        _check_finite(delta, scale, delta.tensors())
    values, targets = _new_values(always, model, scale), _targets(always, model)
    saved = {key: targets[key].detach().to("cpu", copy=True) for key in values}
    write(targets, values)
    try:
        if delta.gate is not None:
            handles += attach_gated(model, delta.patches, delta.gate, scale)
        handles += attach_row_maps(model, delta.row_maps, scale)
        if delta.empty_prompt == "original":
            handles += keep_original(model, saved)
    except BaseException:
        for handle in handles:
            handle.remove()
        write(targets, saved)
        raise
    record = AppliedDelta(delta, scale, model, saved, _next_order(model), handles=tuple(handles))
    record.fused = fused(model, delta.keys)
    _mark(record)
    return record


def _check_states(delta: Delta, model: Any) -> None:
    check_editable(model, {key.partition("/")[0] for key in delta.keys})


def _check_thread(delta: Delta, model: Any) -> None:
    here = threading.current_thread()
    for record in applied_to(model):
        if not record.merged and record.thread is not here and record.thread.is_alive():
            raise BadDelta(
                f"delta {record.delta.id} is in force on this model in the thread "
                f"{record.thread.name}, and applying delta {delta.id} in {here.name} would change "
                "what that one draws; revert it first, or give each thread a pipeline of its own"
            )


def _check_empty_prompt(delta: Delta, model: Any) -> None:
    """Refuses a change of an encoder whose empty prompt another delta keeps, and would keep."""
    for record in applied_to(model):
        both = set(encoders_of(delta.keys)).intersection(encoders_of(record.delta.keys))
        if both and record.delta.empty_prompt == "original":
            raise BadDelta(
                f"delta {record.delta.id} keeps {min(both)}'s empty prompt as it was before it, so "
                f"delta {delta.id} on top would not reach it; compose the two and apply the result"
            )


def _ungated(delta: Delta) -> Delta:
    """Gives what of a delta changes weights when it is applied."""
    if delta.gate is None and not delta.row_maps:
        return delta
    patches = delta.patches if delta.gate is None else delta.ungated
    return replace(delta, patches=patches, ungated={}, gate=None, row_maps={})


def merge_into(delta: Delta, model: Any, *, scale: float = 1.0) -> None:
    """Changes a model for good; see `Delta.merge_into`."""
    scale = finite(scale)
    with one_at_a_time():
        refuse_in_weights(delta.id, delta.empty_prompt)
        refuse_row_maps(delta.id, delta.row_maps)
        _check_states(delta, model)
        _merge(delta, model, scale)


def _merge(delta: Delta, model: Any, scale: float) -> None:
    if held := [record.delta.id for record in applied_to(model) if not record.merged]:
        raise BadDelta(
            f"delta {', '.join(held)} is applied and its revert would undo a merge; "
            "revert it first, or compose the deltas and merge the result"
        )
    values = _new_values(delta, model, scale)
    write(_targets(delta, model), values)
    nothing = dict.fromkeys(values, torch.empty(0))
    _mark(AppliedDelta(delta, scale, model, nothing, _next_order(model), merged=True))


def references(delta: Delta, model: Any) -> dict[str, Tensor]:
    """Gives every touched parameter as it was when the delta was made, in float32 or wider.

    Raises:
        BadDelta: another base, a missing parent, or the delta is applied already.
    """
    applied = applied_to(model)
    _check_parents(delta, applied)
    found = {}
    for key, parameter in _targets(delta, model).items():
        touching = [record for record in applied if key in record.saved]
        found[key] = _reference(delta, key, parameter, touching).to(parameter.device)
        _check_base(delta, key, found[key])
    return found


def _new_values(delta: Delta, model: Any, scale: float) -> dict[str, Tensor]:
    """Computes the changed parameters; nothing is written yet."""
    found, targets = references(delta, model), _targets(delta, model)
    if scale == 0:
        return {key: targets[key].detach() for key in found}
    values = {
        key: _working(targets[key]) + scale * delta.difference(key, reference)
        for key, reference in found.items()
    }
    _check_finite(
        delta, scale, {key: value.to(targets[key].dtype) for key, value in values.items()}
    )
    return values


def _check_finite(delta: Delta, scale: float, held: Mapping[str, Tensor]) -> None:
    for key, tensor in held.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise BadDelta(
                f"delta {delta.id} times {scale:g} makes {key} not finite in {tensor.dtype}, which "
                "wrecks the model; lower the scale, or make the delta again"
            )


def _targets(delta: Delta, model: Any) -> dict[str, nn.Parameter]:
    return {name: found for key in delta.keys for name, found in find(model, key).items()}


def _working(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Sums are formed in float32, or in float64 for weights that have it."""
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return tensor.detach().to(wide)


def _reference(
    delta: Delta, key: str, parameter: nn.Parameter, touching: list[AppliedDelta]
) -> Float[Tensor, "*shape"]:
    """Gives the parameter as it was when the delta was made: base plus parents, nothing else."""
    parents = set(delta.provenance.parents)
    strangers = [record for record in touching if not record.ids() & parents]
    if not strangers:
        return _working(parameter)
    if merged := [record.delta.id for record in touching if record.merged]:
        raise BadDelta(
            f"delta {merged[0]} was merged into {key}, so the base of delta {delta.id} is gone; "
            "compose the two deltas and merge the result into the base model"
        )
    return _state(key, touching, parents)


def _state(key: str, touching: list[AppliedDelta], chosen: set[str]) -> Float[Tensor, "*shape"]:
    value = _working(touching[0].saved[key])
    total = value
    for record in touching:
        if record.ids() & chosen:
            reference = _state(key, touching, set(record.delta.provenance.parents))
            total = total + record.scale * _ungated(record.delta).difference(key, reference)
    return total


def _check_parents(delta: Delta, applied: Iterable[AppliedDelta]) -> None:
    present: set[str] = set().union(*(record.ids() for record in applied))
    if delta.id in present:
        raise BadDelta(f"delta {delta.id} is applied to this model already")
    if missing := [parent for parent in delta.provenance.parents if parent not in present]:
        raise BadDelta(
            f"delta {delta.id} was made on top of {', '.join(missing)}, which this model lacks; "
            "apply that first, or compose the deltas"
        )


def _check_base(delta: Delta, key: str, reference: Float[Tensor, "*shape"]) -> None:
    expected = delta.provenance.base_sketch.get(key)
    if expected is None:
        raise BadDelta(f"delta {delta.id} has no sketch of {key}, which it changes; make it again")
    deviation = sketch_deviation(sketch(reference), expected)
    if not deviation <= SKETCH_TOLERANCE:
        raise BadDelta(
            f"delta {delta.id} was made for {delta.provenance.base_model} and {key} of this model "
            f"differs from it by {deviation:.1%} (up to {SKETCH_TOLERANCE:.0%} is the same model); "
            "load the base it was made for"
        )


def _next_order(model: Any) -> int:
    return 1 + max((record.order for record in applied_to(model)), default=0)


def _touched(record: AppliedDelta) -> list[nn.Module]:
    named = components(record.model)
    return [named[name] for name in {key.partition("/")[0] for key in record.delta.keys}]


def _mark(record: AppliedDelta) -> None:
    for part in _touched(record):
        vars(part)[_MARK] = (*vars(part).get(_MARK, ()), record)


def _unmark(record: AppliedDelta) -> None:
    for part in _touched(record):
        left = tuple(other for other in vars(part)[_MARK] if other is not record)
        if left:
            vars(part)[_MARK] = left
        else:
            del vars(part)[_MARK]
