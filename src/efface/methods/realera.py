"""Erases a concept together with points around its embedding (RealEra, 2024; a reconstruction)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.concepts import names
from efface.contracts import Eraser, Monitor, Need, Paper, TextToImage, silent
from efface.core.attention import key_value_weights
from efface.core.branches import check_family
from efface.core.checks import require
from efface.core.edit_report import residual, stored
from efface.core.keep_sets import kept_set
from efface.core.neighbours import Shell, moments, nearest_words, sampled
from efface.core.recording import Recording
from efface.core.text import Embedder
from efface.core.text_space import Solution, TokenPairs, gram, joined, moment_edit, ridge_edit
from efface.core.token_rules import (
    TargetRule,
    erased_pairs,
    erased_rows,
    mention,
    prompt_pairs,
    replaced,
)
from efface.errors import BadRequest, require_positive
from efface.models.components import KEY_VALUE

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.core.results import ErasureResult

__all__ = ["Realera"]


@dataclass(frozen=True, kw_only=True)
class Realera(Eraser[TextToImage]):
    """Erases what lies around a concept's embedding too, so that unlisted synonyms go along.

    Near points, by cosine and distance to the concept's token rows, are moved to the anchor like
    the concept itself; points further out are held where they are ("beyond-concept
    regularisation"); one closed form for all keys and values. Near points come from real words of
    the model's own vocabulary (``data``), from random directions in the limit of infinitely many
    (``moments``), or from a number of them (``sampled``, the literal form). Seconds, no images.

    No code was published: this is a reconstruction, consistent with the abstract, with the
    constraints that summaries quote, and with MACE, on which the method is evidently modelled. This
    is its closed part; the noise alignment with adapters is not part of it.

    Differs from the paper:
        All published values are unknown; every default is ours. Random directions mostly scale down
        all that is unrelated, by ``beyond / (beyond + near)``, which is why ``data`` is the default
        and ``moments`` and ``sampled`` need a large ``beyond_weight``. The erased, beyond and kept
        sides are means, so that their weights do not depend on the number of prompts.
    """

    paper: ClassVar[Paper] = Paper(
        "RealEra: Semantic-level Concept Erasure via Neighbor-Concept Mining", "2410.09140", 2024
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"prompts"})
    edits: ClassVar[frozenset[str]] = frozenset({"unet"})

    neighbours: Literal["data", "moments", "sampled"] = "data"
    """Where near points come from: words of the vocabulary, or random directions."""
    near: tuple[float, float] = (0.9, 1.0)
    """Cosines to the concept's rows of the points that are erased along."""
    near_distance: float = 0.45
    """How far those may be, in lengths of the row."""
    beyond: tuple[float, float] = (0.5, 0.85)
    """Cosines of the points that stay where they are."""
    count: int = 16
    """Points a row and side (``sampled``), or words a name that are looked at (``data``)."""
    near_weight: float = 1.0
    """Weight of the near points beside the concept's own rows."""
    beyond_weight: float = 1.0
    """Weight of the points beyond."""
    keep_weight: float = 0.1
    """Weight of the kept prompts."""
    ridge: float = 0.1
    """Pull toward the unedited weights, in squared embedding norm."""
    target: TargetRule = "anchor"
    """What a wording becomes: the anchor's prompt, or itself without the concept."""
    always_keep: tuple[str, ...] = ("",)
    """Prompts kept in every request, beside those of the request."""

    def __post_init__(self) -> None:
        require_positive(self, "ridge", "count", "near_distance")
        for name in ("near_weight", "beyond_weight", "keep_weight"):
            if getattr(self, name) < 0:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.beyond[1] > self.near[0]:
            raise BadRequest(
                f"points beyond reach a cosine of {self.beyond[1]} and near ones begin at "
                f"{self.near[0]}; the two must not overlap"
            )
        self._shells()

    @classmethod
    def presets(cls) -> Mapping[str, Realera]:
        """Gives reconstructed settings by task, and those for the bundled model."""
        return {
            "reconstructed-object": cls(),
            "reconstructed-person": cls(
                near=(0.95, 1.0), near_distance=0.32, beyond=(0.6, 0.92), keep_weight=1.0
            ),
            "reconstructed-style": cls(
                near=(0.92, 1.0), near_distance=0.4, beyond=(0.5, 0.88), keep_weight=0.5
            ),
            "emoji": cls(
                target="prompt_without_concept", keep_weight=3.0, ridge=1e-3, near_weight=0.5
            ),
        }

    def erase(
        self,
        model: TextToImage,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Finds near and far points and solves for the edit."""
        require(self, request)
        check_family(model, self)
        recording = Recording(model, generator=generator, monitor=monitor, steps=1)
        embedder = Embedder(model)
        weights = key_value_weights(model.unet, embedder.width)
        pairs = erased_pairs(embedder, request.erasures, tokens="legacy", target=self.target)
        kept = kept_set(embedder, request.keep, tokens="legacy", always=self.always_keep)
        held = kept.averaged(self.keep_weight)
        pairs = pairs.scaled(1.0 / float(pairs.weights.sum()))
        if self.neighbours == "moments":
            solution = self._from_moments(pairs, held)
        else:
            near, beyond = (
                self._mined(embedder, request)
                if self.neighbours == "data"
                else self._drawn(pairs, generator)
            )
            held = held + gram([beyond], embedder.width, weight=_mean(self.beyond_weight, beyond))
            around = near.scaled(self.near_weight / max(float(near.weights.sum()), 1e-300))
            solution = ridge_edit(joined([pairs, around]), held, ridge=self.ridge)
        moved = {
            "residual": residual(solution.map, pairs),
            "interference": kept.interference(solution.map),
        }
        recording.step(moved)
        patch = stored(solution.map, weights)
        found = asdict(solution.conditioning) | moved | {"rank": patch.left.shape[1]}
        return recording.result(self, request, {KEY_VALUE: patch}, diagnostics=found)

    def _shells(self) -> tuple[Shell, Shell]:
        return Shell(*self.near, distance=self.near_distance), Shell(*self.beyond)

    def _from_moments(self, pairs: TokenPairs, held: Float[Tensor, "dim dim"]) -> Solution:
        """Takes infinitely many points a row: their moments are known."""
        near, beyond = self._shells()
        around = moments(pairs.sources, pairs.weights, near)
        outside = moments(pairs.sources, pairs.weights, beyond)
        pull = (pairs.targets * pairs.weights[:, None]).T
        own = (pairs.sources * pairs.weights[:, None]).T @ pairs.sources
        return moment_edit(
            pull @ (pairs.sources + self.near_weight * around.mean),
            own + self.near_weight * around.second,
            held + self.beyond_weight * outside.second,
            ridge=self.ridge,
        )

    def _drawn(
        self, pairs: TokenPairs, generator: torch.Generator
    ) -> tuple[TokenPairs, Float[Tensor, "m dim"]]:
        """Draws points around every row."""
        near, beyond = self._shells()
        around = TokenPairs(
            sampled(pairs.sources, near, self.count, generator),
            pairs.targets.repeat_interleave(self.count, dim=0),
            pairs.weights.repeat_interleave(self.count),
        )
        return around, sampled(pairs.sources, beyond, self.count, generator)

    def _mined(
        self, embedder: Embedder, request: ErasureRequest
    ) -> tuple[TokenPairs, Float[Tensor, "m dim"]]:
        """Puts near words of the vocabulary in the concept's place and sorts rows by cosine.

        Kept words are not mined.
        """
        kept = {
            word for one in request.keep for name in names(one) for word in name.lower().split()
        }
        near, beyond = [_empty(embedder.width)], [_empty(embedder.width).sources]
        for erasure in request.erasures:
            pairs = prompt_pairs(embedder, erasure, self.target)
            for name in names(erasure.concept):
                words = nearest_words(embedder, name, self.count, without=kept)
                for pair in (pair for pair in pairs if mention(name, pair.source)):
                    rows = erased_rows(embedder, pair, "legacy")
                    for word in words:
                        found = _rows_with(embedder, pair.source, name, word)[: len(rows.sources)]
                        own = TokenPairs(*(part[: len(found)] for part in _parts(rows)))
                        cosine = torch.cosine_similarity(found, own.sources)
                        is_near = (cosine >= self.near[0]) & (cosine <= self.near[1])
                        is_beyond = (cosine >= self.beyond[0]) & (cosine < self.beyond[1])
                        targets, heavy = own.targets[is_near], own.weights[is_near]
                        near.append(TokenPairs(found[is_near], targets, heavy))
                        beyond.append(found[is_beyond])
        some = any(len(block.sources) for block in near)
        return joined(near) if some else near[0], torch.cat(beyond)


def _rows_with(embedder: Embedder, text: str, name: str, word: str) -> Float[Tensor, "_ dim"]:
    """Embeds a wording with another word in the name's place, from that word to the end."""
    other = replaced(text, name, word)
    return embedder.embedded([other])[0][embedder.span(other, word)[1] :]


def _parts(rows: TokenPairs) -> tuple[Tensor, Tensor, Tensor]:
    return rows.sources, rows.targets, rows.weights


def _mean(weight: float, rows: Float[Tensor, "n dim"]) -> float:
    return weight / max(len(rows), 1)


def _empty(width: int) -> TokenPairs:
    nothing = torch.zeros(0, width, dtype=torch.float64)
    return TokenPairs(nothing, nothing, torch.zeros(0, dtype=torch.float64))
