"""The layers that read text, as closed forms edit them: one edit per branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface.closed_form.reweighting import Erased, Kept
from efface.closed_form.text_space import TokenPairs, joined
from efface.concepts import Concept, Erasure, wordings
from efface.contracts import Eraser
from efface.deltas.patches import TextMapPatch
from efface.hosts.families import host_of, refuse_family
from efface.hosts.readers import TextReader
from efface.hosts.streams import TextStream, Weighted
from efface.text.attention import joint_factor
from efface.text.keep_sets import KeepSet, kept_set
from efface.text.token_rules import (
    TargetRule,
    TokenRule,
    embedded_pairs,
    erased_pairs,
    erased_rows,
    every_pair,
    kept_rows,
)

__all__ = ["TextBranch", "text_branches"]


@dataclass(frozen=True)
class TextBranch(TextReader):
    """Weights that read the same rows, with the rows that an edit moves and keeps."""

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

    def value_factor(self) -> Float[Tensor, "_ dim"]:
        """Gives an F with ``|F x|^2 = sum |W x|^2`` over the value layers W.

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
    host = host_of(model)
    if method is not None:
        refuse_family(method.name, method.families, host.key)
    return [
        TextBranch(reader.key, _weighed(reader.streams), reader.weights, reader.inputs)
        for reader in host.readers
    ]


def _weighed(streams: Sequence[TextStream]) -> tuple[TextStream, ...]:
    """Lets rows of several streams count alike: those of the first one's length."""
    first, *others = streams
    return (first, *(Weighted(each, _length(first) / _length(each)) for each in others))


def _length(stream: TextStream) -> float:
    """Gives the root mean square length of the rows of the empty prompt."""
    return float(stream.embedded([""])[0].square().sum(1).mean().sqrt())
