"""The layers of a denoiser that read text, with the streams they read: one edit each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface import registry
from efface.closed_form.reweighting import Erased, Kept
from efface.closed_form.text_space import TokenPairs, joined
from efface.concepts import Concept, Erasure, wordings
from efface.contracts import Eraser
from efface.deltas.patches import TextMapPatch
from efface.errors import BadDelta, BadModel, BadRequest
from efface.hosts.architectures import FAMILIES, layout
from efface.hosts.components import TEXT_KEYS, find
from efface.text.attention import joint_factor, key_value_weights
from efface.text.captions import Captions
from efface.text.embedding import Embedder
from efface.text.keep_sets import KeepSet, kept_set
from efface.text.streams import Padded, Pooled, SideBySide, TextStream, Weighted
from efface.text.token_rules import (
    TargetRule,
    TokenRule,
    embedded_pairs,
    erased_pairs,
    erased_rows,
    every_pair,
    kept_rows,
)

__all__ = ["TextBranch", "check_family", "refuse_family", "text_branches"]

SEQUENCE = "transformer/text_tokens"
POOLED = "transformer/pooled_text"
POOLED_XL = "unet/pooled_text"
T5_LENGTH = {"sd3": 256, "flux": 512}
"""Tokens that the pipelines pad T5's prompts to; without a mask the padding changes the rows."""


@dataclass(frozen=True)
class TextBranch:
    """Weights that read the same rows, so that one map of the rows edits all of them."""

    key: str
    """Key of the patch, which stands for the weights: one of `TEXT_KEYS`."""
    streams: tuple[TextStream, ...]
    """What is read; several when one layer reads rows of different encoders."""
    weights: dict[str, Float[Tensor, "_ dim"]]
    """The weights by path, in the columns that read text; views."""
    inputs: int
    """All columns of the weights; the first ``width`` read text."""

    @property
    def width(self) -> int:
        """Values per row of text."""
        return self.streams[0].width

    def erased(
        self, erasures: Sequence[Erasure], *, tokens: TokenRule, target: TargetRule
    ) -> TokenPairs:
        """Stacks the rows to move of all wordings of all concepts, of every stream."""
        return joined(pairs for _, pairs in self.apart(erasures, tokens=tokens, target=target))

    def apart(
        self, erasures: Sequence[Erasure], *, tokens: TokenRule | None, target: TargetRule
    ) -> list[tuple[TextStream, TokenPairs]]:
        """Stacks the rows of all wordings of all concepts with their targets, stream by stream.

        Args:
            erasures: the concepts.
            tokens: which rows of a wording; None: all of them.
            target: what a wording becomes.
        """
        if tokens is None:
            return [(each, every_pair(each, erasures, target=target)) for each in self.streams]
        return [
            (each, erased_pairs(each, erasures, tokens=tokens, target=target))
            for each in self.streams
        ]

    def kept(
        self, keep: Sequence[Concept], *, tokens: TokenRule, always: Sequence[str] = ()
    ) -> KeepSet:
        """Adds up the rows of every kept prompt, of every stream."""
        return KeepSet.together(
            kept_set(stream, keep, tokens=tokens, always=always) for stream in self.streams
        )

    def erased_prompts(
        self, erasures: Sequence[Erasure], *, tokens: TokenRule, target: TargetRule
    ) -> Erased:
        """Gives the rows of `erased`, told apart by prompt."""
        return Erased.of(
            [
                erased_rows(stream, pair, tokens)
                for stream in self.streams
                for pair in embedded_pairs(stream, erasures, target)
            ]
        )

    def kept_prompts(
        self, keep: Sequence[Concept], *, tokens: TokenRule, always: Sequence[str] = ()
    ) -> Kept:
        """Gives the rows that `kept` adds up, told apart by prompt; those of ``always`` are one."""
        concepts = dict.fromkeys(always, 0)
        for number, concept in enumerate(keep, start=1):
            concepts |= {text: concepts.get(text, number) for text in wordings(concept)}
        return Kept.of(
            [
                (number, kept_rows(stream, text, tokens, states))
                for stream in self.streams
                for (text, number), states in zip(
                    concepts.items(), stream.embedded(list(concepts), afresh=True), strict=True
                )
            ]
        )

    def seen(self) -> Float[Tensor, "_ dim"]:
        """Gives an F such that ``|F x|`` is the length of all values that a row x becomes.

        Values are what is drawn; keys say where. A layer that makes both counts whole.
        """
        values = {path: one for path, one in self.weights.items() if path.endswith("to_v.weight")}
        return joint_factor(values or self.weights)

    def patch(self, stored: TextMapPatch) -> TextMapPatch:
        """Widens a map of the text columns to all columns; the others stay."""
        beside = self.inputs - len(stored.left)
        if beside == 0:
            return stored
        return TextMapPatch(
            left=torch.nn.functional.pad(stored.left, (0, 0, 0, beside)),
            right=torch.nn.functional.pad(stored.right, (0, beside)),
        )


def text_branches(model: Any, method: Eraser[Any] | None = None) -> list[TextBranch]:
    """Lists the branches of a pipeline, the one that reads tokens first.

    Args:
        model: a pipeline, or an object with its encoders and the weights that read text.
        method: refuses families that it does not support.

    Raises:
        BadRequest: the method does not edit this family.
        BadModel: the model is of no family that efface knows, or lacks a layer of its family.
    """
    if method is not None:
        check_family(model, method)
    family = layout(model)
    if family in ("sd1", "sd2"):
        return [_key_values(model, Embedder(model))]
    if family == "sdxl":
        pooled = Pooled(model, "_2")
        return [_key_values(model, _clip_pair(model)), _single(model, POOLED_XL, (pooled,))]
    if family == "sd3":
        pooled = Pooled(model, "", "_2")
        return [
            _single(model, SEQUENCE, _clip_and_t5(model)),
            _single(model, POOLED, (pooled,)),
        ]
    if family == "flux":
        t5 = Embedder(model, suffix="_2", length=T5_LENGTH[family])
        return [
            _single(model, SEQUENCE, (t5,)),
            _single(model, POOLED, (Pooled(model, ""),)),
        ]
    if family == "pixart":
        return [_key_values(model, Captions(model), part="transformer")]
    raise BadModel(
        f"a {type(model).__name__} is of no family that efface edits; known: "
        f"{', '.join(FAMILIES.values())}"
    )


def check_family(model: Any, method: Eraser[Any]) -> None:
    """Refuses a model of a family that a method does not edit.

    Raises:
        BadRequest: naming the method, the family, and those that it edits.
    """
    refuse_family(method.name, method.families, layout(model))


def refuse_family(name: str, families: Collection[str], family: str) -> None:
    """Refuses a family that a method, given by its name and the families it edits, does not edit.

    Raises:
        BadRequest: naming the method, the family, what it edits, and the methods that edit this.
    """
    if family in families:
        return
    known = ", ".join(FAMILIES[each] for each in FAMILIES if each in families)
    others = [
        each
        for each in registry.list_methods()
        if family in getattr(registry.load("methods", each), "families", ())
    ]
    *first, last = others or [""]
    listed = " and ".join([", ".join(first), last]) if first else last
    hint = f"; {listed} can" if others else ""
    raise BadRequest(
        f"{name} does not edit {FAMILIES.get(family, 'this kind of model')}{hint}; it edits {known}"
    )


def _length(stream: TextStream) -> float:
    """Gives the root mean square length of the rows of the empty prompt."""
    return float(stream.embedded([""])[0].square().sum(1).mean().sqrt())


def _clip_pair(model: Any) -> SideBySide:
    """Both CLIP encoders up to their last but one layer, as SD XL and SD 3 read them."""
    return SideBySide(Embedder(model, layer=-2), Embedder(model, suffix="_2", layer=-2))


def _clip_and_t5(model: Any) -> tuple[TextStream, ...]:
    """The two streams of SD 3; many run it without T5, whose rows are zeros then."""
    clip = _clip_pair(model)
    if getattr(model, "text_encoder_3", None) is None:
        (_, weight), *_ = _found(model, SEQUENCE).items()
        return (Padded(clip, max(weight.shape[1], clip.width)),)
    t5 = Embedder(model, suffix="_3", length=T5_LENGTH["sd3"])
    padded = Padded(clip, t5.width)
    return padded, Weighted(t5, _length(padded) / _length(t5))


def _key_values(model: Any, stream: TextStream, part: str = "unet") -> TextBranch:
    weights = key_value_weights(getattr(model, part), stream.width)
    return TextBranch(f"{part}/key_value", (stream,), weights, stream.width)


def _single(model: Any, key: str, streams: Sequence[TextStream]) -> TextBranch:
    ((name, weight),) = _found(model, key).items()
    width = streams[0].width
    if weight.shape[1] < width or (key != POOLED_XL and weight.shape[1] != width):
        raise BadModel(
            f"{name} has shape {tuple(weight.shape)} and its text encoders give {width} values; "
            "encoders and denoiser are of different models"
        )
    path = name.partition("/")[2]
    return TextBranch(key, tuple(streams), {path: weight[:, :width]}, weight.shape[1])


def _found(model: Any, key: str) -> dict[str, Tensor]:
    try:
        return {name: weight.detach() for name, weight in find(model, key).items()}
    except BadDelta as error:
        part, path = key.partition("/")[0], TEXT_KEYS[key].pattern
        raise BadModel(
            f"the {part} has no weight '{path}', which reads text in this family of models"
        ) from error
