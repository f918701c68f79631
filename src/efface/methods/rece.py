"""Closed-form erasure, repeated against the embeddings that would undo it (RECE, ECCV 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.closed_form.returning import ReturnProblem, costs_to_regenerate, returning_rows
from efface.closed_form.text_space import Solution, TokenPairs, Weighting, ridge_edit
from efface.contracts import Eraser, Monitor, Paper, TextToImage, Work, silent
from efface.deltas.recording import Recording
from efface.errors import BadRequest, require_positive
from efface.hosts.families import FAMILIES
from efface.text.attention import joint_factor
from efface.text.branch_edits import BranchEdit, edit_branches, movement
from efface.text.branches import text_branches
from efface.text.token_rules import (
    TargetRule,
    TokenRule,
    WordingRule,
    aligned_rows,
    prompts_read,
    worded_by,
)

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult
    from efface.text.branches import TextBranch
    from efface.text.keep_sets import KeepSet

__all__ = ["Rece"]


@dataclass(frozen=True, kw_only=True)
class Rece(Eraser[TextToImage]):
    """Edits cross-attention keys and values like UCE, then erases what would undo the edit.

    Each round solves in closed form for the embeddings that make the edited layers give the
    concept's original keys and values again (section 3.2), then erases those too. The penalty on
    their length bounds the harm to other concepts. Seconds, no images, no gradients. The curve
    ``embedding_cost`` is the length an embedding needs to bring the concept back, in lengths of its
    own; it is a figure about embeddings, not about prompts that people can type.

    Differs from the paper:
        All layers share one map of the token embeddings, so rounds run on that map alone; no second
        denoiser is needed and weights are touched once. Equal to the layer-by-layer loop up to
        rounding. No image is generated between rounds and no round is dropped by its images.
        The released code repeats the kept empty prompt once per concept; here it counts once, and
        ``keep_scale`` says how much.
        By default every wording of a concept is erased; the published commands name the concept
        alone, as the published presets do (``wordings="names"``).
        ``hold`` is ours: without it a round may bring back what the first edit erased. So are
        ``aim="original"`` and ``stop_at_cost``, which says without any picture when enough rounds
        are done.
        ``strength_unit="relative"``, ``rows="erased"``, ``weighting="mean"`` and
        ``target="prompt_without_concept"`` are ours; the defaults are the paper's.
    """

    name: ClassVar[str] = "rece"
    weakened_by = ("raise ridge", "raise strength", "raise keep_scale")
    strengthened_by = ("lower strength", "raise erase_scale")
    paper: ClassVar[Paper] = Paper(
        "Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models",
        "2407.12383",
        2024,
    )
    edits: ClassVar[frozenset[str]] = frozenset({"unet", "transformer"})
    families: ClassVar[frozenset[str]] = frozenset(FAMILIES)
    streams: ClassVar[bool] = True
    revision: ClassVar[int] = 2

    rounds: int = 3
    """How often returning embeddings are found and erased; 0 leaves the first edit alone."""
    strength: float = 0.1
    """Penalty on returning embeddings. Higher makes them shorter and rounds gentler."""
    strength_unit: Literal["absolute", "relative"] = "absolute"
    """Absolute as in the paper, or relative to the mean squared gain of the layers."""
    regularisation: Literal["zero_norm", "standard"] = "zero_norm"
    """What the penalty pulls returning embeddings to: zero, as the paper, or another text's."""
    toward: str = ""
    """The text of ``standard``: each row is pulled to the row at the same position of this text."""
    rows: Literal["all", "erased"] = "all"
    """Whose returning embeddings are erased: all tokens of a wording, or the first edit's."""
    erase_scale: float = 1.0
    """Weight of the erased tokens. Higher erases deeper and disturbs other concepts more."""
    keep_scale: float = 0.1
    """Weight of the kept tokens in the rounds."""
    aim: Literal["current", "original"] = "current"
    """Whether rounds move to what the edited weights make of the targets, as in the paper, or to
    what the unedited ones make of them, so that errors of the first edit are not inherited."""
    stop_at_cost: float = 0.0
    """Stop before all rounds are done once ``embedding_cost`` reaches this; 0 does all rounds."""
    hold: float = 0.0
    """Weight with which rounds hold what the first edit did; the paper does not, which is 0."""
    ridge: float = 0.1
    """Pull toward the weights of the round before, in squared embedding norm."""
    first_keep_scale: float = 1.0
    """Weight of the kept tokens in the first edit."""
    first_ridge: float = 0.5
    """Pull toward the unedited weights in the first edit."""
    tokens: TokenRule = "legacy"
    """Which tokens the first edit moves: from the last concept token on, or that token alone."""
    target: TargetRule = "anchor"
    """What a wording becomes: itself with the anchor in place of the concept (anchor), the anchor's
    name alone (bare_anchor), or itself with the anchor or nothing (prompt_without_concept); the
    first two are the empty prompt without an anchor."""
    wordings: WordingRule = "all"
    """Which prompts are erased and kept: all wordings of a concept, or its names alone."""
    always_keep: tuple[str, ...] = ("",)
    """Prompts kept in every request; the paper's code always keeps the empty one."""
    weighting: Weighting = "sum"
    """Whether the erased and the kept side count by number of tokens (sum) or as one (mean)."""

    def __post_init__(self) -> None:
        require_positive(self, "ridge", "first_ridge", "erase_scale")
        for name in (
            "rounds",
            "strength",
            "keep_scale",
            "first_keep_scale",
            "hold",
            "stop_at_cost",
        ):
            if getattr(self, name) < 0:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must not be negative")

    @classmethod
    def presets(cls) -> Mapping[str, Rece]:
        """Gives the released settings per task, and those measured for the bundled model."""
        return {
            "paper-sd14-unsafe": cls(wordings="names", rounds=3, strength=0.1),
            "paper-sd14-unsafe-list": cls(wordings="names", rounds=2, strength=0.1),
            "paper-sd14-art": cls(wordings="names", rounds=1, strength=1e-3, first_keep_scale=0.1),
            "paper-sd14-object-easy": cls(wordings="names", rounds=1, strength=0.1),
            "paper-sd14-object-hard": cls(wordings="names", rounds=1, strength=1e-3),
            "emoji": cls(
                rounds=1,
                strength=0.1,
                strength_unit="relative",
                rows="erased",
                target="prompt_without_concept",
                weighting="mean",
                first_keep_scale=10.0,
                first_ridge=1e-3,
                keep_scale=10.0,
                ridge=1e-3,
                hold=1.0,
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
        """Solves the first edit and the rounds; draws nothing, so seeds do not matter."""
        branches = text_branches(model, self)
        recording = Recording(model, generator=generator, monitor=monitor, steps=self.rounds + 1)
        worded = worded_by(request, self.wordings)
        edit = edit_branches(branches, lambda branch: self._edit(branch, worded))
        for figures in edit.curve:
            recording.step(figures)
        return recording.result(self, request, edit.patches, diagnostics=edit.diagnostics)

    def _edit(self, branch: TextBranch, request: ErasureRequest) -> BranchEdit:
        """Solves the first edit and the rounds of everything that reads the same rows.

        ``W = W0 P`` at every moment, for all layers; ``factor`` is F with ``F^T F = sum W0^T W0``.
        """
        factor = joint_factor(branch.weights)
        kept = branch.kept(request.keep, tokens=self.tokens, always=self.always_keep)
        first = branch.erased(request.erasures, tokens=self.tokens, target=self.target)
        concept, toward = self._chased(branch, request)
        named = {
            erasure.concept.name: branch.erased((erasure,), tokens="new", target=self.target)
            for erasure in request.erasures
        }
        solution = self._solve(first, kept, ridge=self.first_ridge, keep=self.first_keep_scale)
        curve: list[dict[str, float]] = []
        for step in range(self.rounds + 1):
            problem = ReturnProblem.of(factor, solution.map.matrix())
            returning = returning_rows(
                problem, concept.sources, strength=self._strength(factor), toward=toward
            )
            costs = costs_to_regenerate(problem, named)
            length = {"returning_length": float(returning.norm() / concept.sources.norm())}
            curve.append(costs | length | movement(solution.map, first, kept))
            if step == self.rounds or 0 < self.stop_at_cost <= costs["embedding_cost"]:
                break
            solution = self._round(solution, replace(concept, sources=returning), first, kept)
        return BranchEdit(solution, curve)

    def _chased(
        self, branch: TextBranch, request: ErasureRequest
    ) -> tuple[TokenPairs, Float[Tensor, "n dim"] | None]:
        """Gives the concept's rows with their targets, and what their returning rows are pulled to.

        All tokens of a wording, or those that the first edit moves.
        """
        tokens = None if self.rows == "all" else self.tokens
        if self.regularisation == "zero_norm":
            apart = branch.apart(request.erasures, tokens=tokens, target=self.target)
            return TokenPairs.stacked([pairs for _, pairs in apart]), None
        blocks = [
            aligned_rows(stream, self.toward, request.erasures, tokens=tokens, target=self.target)
            for stream in branch.streams
        ]
        return TokenPairs.stacked([pairs for pairs, _ in blocks]), torch.cat(
            [toward for _, toward in blocks]
        )

    def _strength(self, factor: Float[Tensor, "dim dim"]) -> float:
        """Gives the weight of the penalty, in squared values."""
        if self.strength_unit == "absolute":
            return self.strength
        return self.strength * float((factor**2).sum()) / len(factor)

    def _round(
        self, before: Solution, returning: TokenPairs, first: TokenPairs, kept: KeepSet
    ) -> Solution:
        """Erases the returning embeddings from the weights as they are now."""
        if self.aim == "original":
            # (W + change) e' = W0 t, so the change is solved for as one of the unedited weights.
            short = returning.targets - before.map.of(returning.sources)
            returning = replace(returning, targets=returning.sources + short)
        if self.hold:
            stay = TokenPairs(first.sources, first.sources, self.hold * first.weights)
            returning = TokenPairs.stacked([returning, stay])
        solution = self._solve(returning, kept, ridge=self.ridge, keep=self.keep_scale)
        join = before.map.plus if self.aim == "original" else before.map.then
        return replace(solution, map=join(solution.map))

    def _solve(self, pairs: TokenPairs, kept: KeepSet, *, ridge: float, keep: float) -> Solution:
        """Erases token rows from the weights as they are now (equation 3, UCE's)."""
        erase_factor, keep_factor = kept.factors(float(pairs.weights.sum()), self.weighting)
        kept_gram = kept.weighted(keep * keep_factor)
        return ridge_edit(pairs.scaled(self.erase_scale * erase_factor), kept_gram, ridge=ridge)

    def work(self, request: ErasureRequest) -> Work:
        """Counts the rounds."""
        worded = worded_by(request, self.wordings)
        prompts = prompts_read(worded, target=self.target, always=self.always_keep)
        return Work(prompts=prompts, rounds=self.rounds)
