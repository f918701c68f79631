"""Erases a concept together with points around its embedding (RealEra, 2024; a reconstruction)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.closed_form.neighbours import Shell, moments, sampled
from efface.closed_form.text_space import (
    Solution,
    TokenPairs,
    gram,
    joined,
    moment_edit,
    ridge_edit,
)
from efface.contracts import Eraser, Monitor, Paper, TextToImage, Work, silent
from efface.deltas.recording import Recording
from efface.errors import BadRequest, require_positive
from efface.hosts.families import FAMILIES
from efface.text.branch_edits import BranchEdit, edit_branches, movement
from efface.text.branches import text_branches
from efface.text.mining import Mining
from efface.text.token_rules import TargetRule, TokenRule, prompts_read

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult
    from efface.hosts.streams import TextStream
    from efface.text.branches import TextBranch
    from efface.text.keep_sets import KeepSet

__all__ = ["Realera"]


@dataclass(frozen=True, kw_only=True)
class Realera(Eraser[TextToImage]):
    """Erases what lies around a concept's embedding too, so that unlisted synonyms go along.

    Points near the concept's token rows are moved to the anchor like the concept itself; points
    further out are held where they are ("beyond-concept regularisation"); one closed form for all
    keys and values. Near points are real words of the model's own vocabulary, chosen by cosine
    (``data``), or lie in random directions within a cosine and a distance: in the limit of
    infinitely many (``moments``), or a number of them (``sampled``, the literal form). Seconds, no
    images.

    Distances are in lengths of a row, so that short and long rows, as T5 has them, get noise alike.
    Where encoders stand side by side in a row, each one's part is turned by the same angle by
    itself: noise is in proportion to each part. Pooled rows have near points too.

    No code was published: this is a reconstruction, consistent with the abstract, with the
    constraints that summaries quote, and with MACE, on which the method is evidently modelled. This
    is its closed part; the noise alignment with adapters is `realera_noise`.

    Differs from the paper:
        All published values are unknown; every default is ours. Random directions mostly scale down
        all that is unrelated, by ``beyond / (beyond + near)``, which is why ``data`` is the default
        and ``moments`` and ``sampled`` need a large ``beyond_weight``. The erased, beyond and kept
        sides are means, so that their weights do not depend on the number of prompts.
    """

    name: ClassVar[str] = "realera"
    weakened_by = ("raise ridge", "raise keep_weight")
    strengthened_by = ("lower ridge", "lower keep_weight")
    paper: ClassVar[Paper] = Paper(
        "RealEra: Semantic-level Concept Erasure via Neighbor-Concept Mining", "2410.09140", 2024
    )
    edits: ClassVar[frozenset[str]] = frozenset({"unet", "transformer"})
    families: ClassVar[frozenset[str]] = frozenset(FAMILIES)

    neighbours: Literal["data", "moments", "sampled"] = "data"
    """Where near points come from: words of the vocabulary, or random directions."""
    near: tuple[float, float] = (0.9, 1.0)
    """Cosines to the concept's rows of the points that are erased along."""
    near_distance: float = 0.45
    """How far those may be, in lengths of the row, where directions are random; words (``data``)
    are chosen by their cosine alone."""
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
    tokens: TokenRule = "legacy"
    """Which rows are erased, kept and mined: from the last concept token on, or that token alone.
    T5 pads prompts to hundreds of rows, among which a word's row hardly counts: there take new."""
    target: TargetRule = "anchor"
    """What a wording becomes: itself with the anchor in place of the concept (anchor), the anchor's
    name alone (bare_anchor), or itself with the anchor or nothing (prompt_without_concept)."""
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
        branches = text_branches(model, self)
        recording = Recording(model, generator=generator, monitor=monitor, steps=1)
        edit = edit_branches(branches, lambda branch: self._edit(branch, request, generator))
        recording.step(edit.curve[0])
        return recording.result(self, request, edit.patches, diagnostics=edit.diagnostics)

    def _shells(self) -> tuple[Shell, Shell]:
        return Shell(*self.near, distance=self.near_distance), Shell(*self.beyond)

    def _edit(
        self, branch: TextBranch, request: ErasureRequest, generator: torch.Generator
    ) -> BranchEdit:
        """Edits everything that reads the same rows; erased, beyond and kept rows are means."""
        kept = branch.kept(request.keep, tokens=self.tokens, always=self.always_keep)
        streams = branch.apart(request.erasures, tokens=self.tokens, target=self.target)
        mean = 1.0 / sum(float(pairs.weights.sum()) for _, pairs in streams)
        concept = [pairs.scaled(mean) for _, pairs in streams]
        if self.neighbours == "moments":
            solution = self._from_moments(branch, concept, kept)
        else:
            solution = self._from_points(branch, concept, kept, request, generator)
        return BranchEdit(solution, [movement(solution.map, joined(concept), kept)])

    def _from_moments(
        self, branch: TextBranch, concept: Sequence[TokenPairs], kept: KeepSet
    ) -> Solution:
        """Takes infinitely many points a row: their moments are known."""
        near, beyond = self._shells()
        target_source, source_source = (
            torch.zeros(branch.width, branch.width, dtype=torch.float64) for _ in range(2)
        )
        kept_gram = kept.averaged(self.keep_weight)
        for stream, pairs in zip(branch.streams, concept, strict=True):
            inside = moments(pairs.sources, pairs.weights, near, blocks=stream.blocks)
            outside = moments(pairs.sources, pairs.weights, beyond, blocks=stream.blocks)
            weighted_targets = (pairs.targets * pairs.weights[:, None]).T
            target_source += weighted_targets @ (pairs.sources + self.near_weight * inside.mean)
            source_source += (pairs.sources * pairs.weights[:, None]).T @ pairs.sources
            source_source += self.near_weight * inside.second
            kept_gram = kept_gram + self.beyond_weight * outside.second
        return moment_edit(target_source, source_source, kept_gram, ridge=self.ridge)

    def _from_points(
        self,
        branch: TextBranch,
        concept: Sequence[TokenPairs],
        kept: KeepSet,
        request: ErasureRequest,
        generator: torch.Generator,
    ) -> Solution:
        """Takes a number of points a row: words of the vocabulary, or drawn ones."""
        mining = Mining(
            near=self.near,
            beyond=self.beyond,
            count=self.count,
            tokens=self.tokens,
            target=self.target,
        )
        points = [
            mining.around(stream, request)
            if self.neighbours == "data"
            else self._drawn(stream, pairs, generator)
            for stream, pairs in zip(branch.streams, concept, strict=True)
        ]
        beyond = torch.cat([outside for _, outside in points])
        kept_gram = kept.averaged(self.keep_weight)
        share = self.beyond_weight / max(len(beyond), 1)
        kept_gram = kept_gram + gram([beyond], branch.width, weight=share)
        count = sum(float(near.weights.sum()) for near, _ in points)
        inside = [near.scaled(self.near_weight / max(count, 1e-300)) for near, _ in points]
        return ridge_edit(joined([*concept, *inside]), kept_gram, ridge=self.ridge)

    def _drawn(
        self, stream: TextStream, pairs: TokenPairs, generator: torch.Generator
    ) -> tuple[TokenPairs, Float[Tensor, "m dim"]]:
        """Draws points around every row."""
        near, beyond = self._shells()
        inside = TokenPairs(
            sampled(pairs.sources, near, self.count, generator, blocks=stream.blocks),
            pairs.targets.repeat_interleave(self.count, dim=0),
            pairs.weights.repeat_interleave(self.count),
        )
        outside = sampled(pairs.sources, beyond, self.count, generator, blocks=stream.blocks)
        return inside, outside

    def work(self, request: ErasureRequest) -> Work:
        """Counts wordings and what they become; mined words come on top."""
        return Work(prompts=prompts_read(request, target=self.target, always=self.always_keep))
