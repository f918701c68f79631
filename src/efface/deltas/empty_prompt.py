"""Text encoders that read the empty prompt as before an edit, exactly, while all else is edited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from efface.deltas.gates import gates_are_shut
from efface.errors import BadDelta
from efface.hosts.components import component, find
from efface.hosts.embedding import Embedder
from efface.hosts.states import refuse_compiled

__all__ = ["EmptyPrompt", "encoders_of", "keep_original", "refuse_in_weights"]

EmptyPrompt: TypeAlias = Literal["edited", "original"]
"""Whose rows the empty prompt has, which guidance leads away from: those of the edited encoder, or
of the one before the edit."""


def encoders_of(keys: Mapping[str, Any] | tuple[str, ...]) -> tuple[str, ...]:
    """Names the text encoders that an edit of these parameters changes."""
    parts = {key.partition("/")[0] for key in keys}
    return tuple(sorted(part for part in parts if part.startswith("text_encoder")))


def refuse_in_weights(delta_id: str, empty_prompt: EmptyPrompt) -> None:
    """Refuses to write weights of a delta that weights alone do not hold.

    Raises:
        BadDelta: the empty prompt is to be read as before the edit.
    """
    if empty_prompt == "original":
        raise BadDelta(
            f"delta {delta_id} leaves the empty prompt to the unedited text encoder, which weights "
            "cannot hold: apply it when drawing (delta.apply, efface apply), or erase again with "
            "--unconditional edited to export weights"
        )


def keep_original(model: Any, saved: Mapping[str, Tensor]) -> list[Any]:
    """Lets text encoders read the empty prompt with the weights that they had before an edit.

    Whatever is in a batch beside it is read by the edited encoder. Removing the handles ends it.

    Args:
        model: a pipeline, edited already.
        saved: the changed weights as they were, by key.

    Raises:
        BadDelta: the model is a bare network, which has no tokenizer to tell the empty prompt by.
        BadModel: an encoder is compiled.
    """
    handles: list[Any] = []
    try:
        for name in encoders_of(tuple(saved)):
            handles.append(_on(model, name, saved))
    except BaseException:
        for handle in handles:
            handle.remove()
        raise
    return handles


def _on(model: Any, name: str, saved: Mapping[str, Tensor]) -> Any:
    suffix = name.removeprefix("text_encoder")
    if getattr(model, f"tokenizer{suffix}", None) is None:
        raise BadDelta(
            "a delta that leaves the empty prompt as it was needs the pipeline's tokenizer; apply "
            "it to a whole pipeline"
        )
    refuse_compiled(model, name)
    empty = torch.tensor(Embedder(model, suffix=suffix).tokenised("").ids)
    before = {
        find(model, key)[key]: value for key, value in saved.items() if key.startswith(f"{name}/")
    }
    running = [False]

    def again(
        network: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> Any:
        ids = named["input_ids"] if "input_ids" in named else given[0]
        if running[0] or gates_are_shut() or not bool((rows := _equal(ids, empty)).any()):
            return None
        running[0] = True
        try:
            with _pointing(before):
                return _taken(output, network(*given, **named), rows)
        finally:
            running[0] = False

    return component(model, name).register_forward_hook(again, with_kwargs=True)


def _equal(ids: Int[Tensor, "n tokens"], empty: Int[Tensor, " length"]) -> Bool[Tensor, " n"]:
    if ids.shape[-1] != len(empty):
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    same: Tensor = (ids == empty.to(ids)).all(dim=-1)
    return same


@contextmanager
def _pointing(before: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Lets weights point to other values inside the body."""
    now = {weight: weight.data for weight in before}
    try:
        for weight, value in before.items():
            weight.data = value.to(weight.device)
        yield
    finally:
        for weight, value in now.items():
            weight.data = value


def _taken(output: Any, other: Any, rows: Bool[Tensor, " n"]) -> Any:
    """Takes some rows of everything that an encoder gives from what it gave otherwise."""
    if isinstance(output, Tensor):
        chosen = rows.to(output.device).reshape(-1, *([1] * (output.ndim - 1)))
        return torch.where(chosen, other, output)
    if isinstance(output, Mapping):
        return type(output)(
            **{name: _taken(value, other[name], rows) for name, value in output.items()}
        )
    if isinstance(output, tuple):
        return tuple(_taken(*both, rows) for both in zip(output, other, strict=True))
    return output
