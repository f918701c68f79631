"""Closed-form edit of cross-attention keys and values, in seconds (UCE, WACV 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from efface.closed_form.reweighting import Rounds, balanced_edit
from efface.closed_form.text_space import Weighting, free_directions, ridge_edit
from efface.contracts import Eraser, Monitor, Paper, TextToImage, Work, silent
from efface.deltas.recording import Recording
from efface.errors import BadRequest, require_positive
from efface.hosts.families import FAMILIES
from efface.text.anchors import toward_nearest
from efface.text.branch_edits import BranchEdit, edit_branches, movement
from efface.text.branches import text_branches
from efface.text.keep_sets import KeepSet
from efface.text.token_rules import (
    TargetRule,
    TokenRule,
    WordingRule,
    prompts_read,
    worded_by,
)

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from efface.closed_form.text_space import TokenPairs
    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult
    from efface.text.branches import TextBranch

__all__ = ["Uce"]


@dataclass(frozen=True, kw_only=True)
class Uce(Eraser[TextToImage]):
    """Moves the keys and values of a concept to those of its anchor and holds others fixed.

    One ridge regression for all cross-attention layers at once (equation 7), solved in text space:
    every layer is multiplied by the same map of the token embeddings. No images, no gradients. The
    anchor is the empty prompt unless the request names one; synonyms are erased along.

    The paper has three uses of this solve, which differ in the target. *Erase*: the request names
    an anchor, and the concept gets its values. *Moderate*: it names none, and the concept gets the
    values of the empty prompt (with ``target="anchor"``; the bundled model's preset keeps the words
    around the concept instead). *Debias*: the concept keeps its values plus weighted ones of
    attributes, found by drawing and counting; that is ``efface debias``.

    Differs from the paper:
        The solve is one float64 Cholesky factorisation instead of a float32 inverse per layer; the
        result is the same to rounding and the change is stored as an exact low-rank map.
        By default every wording of a concept is erased and kept, each with its own anchor ("a photo
        of a pistol" becomes "a photo of a lamp"), which moves 1.7 times as much as the published
        commands. Those name the concept alone, as the published presets do (``wordings="names"``);
        where the paper's code expands the name by templates all of them go to the bare anchor
        (``target="bare_anchor"``).
        ``target="prompt_without_concept"`` is ours: mapping "a pistol, blueprint style" to the
        empty prompt wipes the style too, so the wording around the concept is kept in the target.
        ``weighting="mean"`` is ours too. ``null_space`` is the idea of SPEED (arXiv 2503.07392
        [recalled]), written from the idea: erase many concepts within what is left free.
        ``reweightings``, ``reach`` and ``unanchored`` are ours: many concepts compete for the
        directions of one map, and equal weights erase most of them far more than needed and some
        too little; steered to what is nearest, they have less far to go.
    """

    name: ClassVar[str] = "uce"
    weakened_by = ("raise ridge", "lower erase_scale", "raise keep_scale")
    strengthened_by = ("raise erase_scale", "lower ridge")
    paper: ClassVar[Paper] = Paper(
        "Unified Concept Editing in Diffusion Models", "2308.14761", 2024
    )
    edits: ClassVar[frozenset[str]] = frozenset({"unet", "transformer"})
    families: ClassVar[frozenset[str]] = frozenset(FAMILIES)
    streams: ClassVar[bool] = True

    erase_scale: float = 1.0
    """Weight of the erased tokens. Higher erases deeper and disturbs other concepts more."""
    keep_scale: float = 1.0
    """Weight of the kept tokens. Higher protects them better and erases less near them."""
    ridge: float = 0.5
    """Pull toward the unedited weights, in squared embedding norm. Raise it if images degrade."""
    tokens: TokenRule = "legacy"
    """Which tokens move: from the last concept token on (legacy) or that token alone (new)."""
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
    null_space: float = 0.0
    """Restrict the edit to directions whose keep-set eigenvalue is at most this fraction of the
    largest; 0 disables."""
    reweightings: int = 0
    """Further solves, each with more weight on erased prompts that moved least and kept ones that
    moved most, for many concepts at once; 0 disables."""
    enough: float = 1.3
    """Stop raising a prompt's weight once it is this many times closer to its target than to its
    source. Higher erases deeper and disturbs other concepts more."""
    reach: float = 1.0
    """Fraction of the way from sources to targets to move; above 1 goes past the targets."""
    unanchored: Literal["target", "nearest"] = "target"
    """Where a concept goes that has no anchor: as ``target`` says, or to the nearest kept one."""

    def __post_init__(self) -> None:
        require_positive(self, "ridge", "erase_scale", "reach", "enough")
        if self.keep_scale < 0:
            raise BadRequest(f"keep_scale is {self.keep_scale}; it must not be negative")
        if self.reweightings < 0:
            raise BadRequest(f"reweightings is {self.reweightings}; it must not be negative")
        if not 0 <= self.null_space <= 1:
            raise BadRequest(f"null_space is {self.null_space}; it must be between 0 and 1")

    @classmethod
    def presets(cls) -> Mapping[str, Uce]:
        """Gives the released settings per task, and those measured for the bundled model."""
        return {
            "paper-sd14-object": cls(wordings="names"),
            "paper-sd14-unsafe": cls(wordings="names"),
            "paper-sd14-art": cls(wordings="names", keep_scale=0.1),
            "released-2025": cls(wordings="names", tokens="new", always_keep=()),
            "emoji": cls(
                target="prompt_without_concept", weighting="mean", keep_scale=3.0, ridge=1e-3
            ),
            "emoji-many": cls(
                target="prompt_without_concept",
                weighting="mean",
                keep_scale=2.2,
                ridge=1e-4,
                reweightings=8,
                reach=1.6,
                unanchored="nearest",
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
        """Solves for the edit; draws nothing, so seeds do not matter."""
        branches = text_branches(model, self)
        if self.unanchored == "nearest":
            request = toward_nearest(request, branches[0])
        recording = Recording(model, generator=generator, monitor=monitor, steps=1)
        worded = worded_by(request, self.wordings)

        def solve(branch: TextBranch) -> BranchEdit:
            if self.reweightings:
                return self._balanced(branch, worded)
            pairs = branch.erased(worded.erasures, tokens=self.tokens, target=self.target)
            kept = branch.kept(worded.keep, tokens=self.tokens, always=self.always_keep)
            return self.solve(pairs, kept)

        edit = edit_branches(branches, solve)
        recording.step(edit.curve[0])
        return recording.result(self, request, edit.patches, diagnostics=edit.diagnostics)

    def solve(self, pairs: TokenPairs, kept: KeepSet) -> BranchEdit:
        """Edits everything that reads the same rows of text, with these settings.

        Equation 7 with targets ``W T`` is ``W' = W P``, with one P for all layers: ``P = I + (T -
        C)^T A C G^-1``, where ``G = lambda I + C^T A C + R^T B R``; C are the rows to erase, T
        their targets, R the rows to keep, A and B the weights.

        Args:
            pairs: the rows to move, of all concepts: C, T and A.
            kept: the rows to hold: R.

        Raises:
            BadRequest: the system has no stable solution; raise ``ridge`` or add prompts to keep.
        """
        erase, keep = kept.factors(float(pairs.weights.sum()), self.weighting)
        kept_gram = kept.weighted(keep)
        solution = ridge_edit(
            pairs.reaching(self.reach).scaled(self.erase_scale * erase),
            self.keep_scale * kept_gram,
            ridge=self.ridge,
            free=self._free(kept_gram),
        )
        return BranchEdit(solution, [movement(solution.map, pairs, kept)])

    def _balanced(self, branch: TextBranch, request: ErasureRequest) -> BranchEdit:
        """Solves in rounds, between which prompts are weighed anew."""
        moving = branch.erased_prompts(request.erasures, tokens=self.tokens, target=self.target)
        holding = branch.kept_prompts(request.keep, tokens=self.tokens, always=self.always_keep)
        pairs, kept = moving.pairs, KeepSet(holding.rows.T @ holding.rows, len(holding.rows))
        erase, keep = kept.factors(float(pairs.weights.sum()), self.weighting)
        solution = balanced_edit(
            replace(moving, pairs=pairs.scaled(self.erase_scale * erase)),
            replace(holding, weight=self.keep_scale * keep),
            branch.value_factor(),
            Rounds(self.reweightings, self.reach, self.enough),
            ridge=self.ridge,
            free=self._free(kept.weighted(keep)),
        )
        return BranchEdit(solution, [movement(solution.map, pairs, kept)])

    def _free(self, kept_gram: Float[Tensor, "dim dim"]) -> Float[Tensor, "dim rank"] | None:
        return free_directions(kept_gram, share=self.null_space) if self.null_space else None

    def work(self, request: ErasureRequest) -> Work:
        """Counts the solves between which prompts are weighed anew."""
        worded = worded_by(request, self.wordings)
        prompts = prompts_read(worded, target=self.target, always=self.always_keep)
        return Work(prompts=prompts, reweightings=self.reweightings)
