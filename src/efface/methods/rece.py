"""Closed-form erasure, repeated against the embeddings that would undo it (RECE, ECCV 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from efface.closed_form.edit_report import residual, stored
from efface.closed_form.returning import (
    Regularisation,
    ReturnProblem,
    costs_to_regenerate,
    returning_rows,
)
from efface.closed_form.text_space import (
    Conditioning,
    Solution,
    TextMap,
    TokenPairs,
    Weighting,
    ridge_edit,
)
from efface.contracts import Eraser, Monitor, Need, Paper, TextToImage, silent
from efface.deltas.patches import Patch
from efface.deltas.recording import Recording
from efface.errors import BadRequest, require_positive
from efface.hosts.architectures import FAMILIES
from efface.runs.checks import require
from efface.text.attention import joint_factor
from efface.text.branches import TextBranch, text_branches
from efface.text.token_rules import TargetRule, TokenRule, last_row

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult
    from efface.text.keep_sets import KeepSet
    from efface.text.streams import TextStream

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
        ``hold`` is ours: without it a round may bring back what the first edit erased. So are
        ``aim="original"``, ``regularisation="limited"`` and ``stop_at_cost``, which says without
        any picture when enough rounds are done.
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
    needs: ClassVar[frozenset[Need]] = frozenset({"prompts"})
    edits: ClassVar[frozenset[str]] = frozenset({"unet", "transformer"})
    families: ClassVar[frozenset[str]] = frozenset(FAMILIES)
    streams: ClassVar[bool] = True

    rounds: int = 3
    """How often returning embeddings are found and erased; 0 leaves the first edit alone."""
    strength: float = 0.1
    """Penalty on returning embeddings. Higher makes them shorter and rounds gentler."""
    strength_unit: Literal["absolute", "relative"] = "absolute"
    """Absolute as in the paper, or relative to the mean squared gain of the layers."""
    regularisation: Regularisation = "zero_norm"
    """What the penalty pulls returning embeddings to; the paper uses zero."""
    toward: str = ""
    """The text whose embedding ``standard`` regularisation pulls to."""
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
    """What a wording becomes: the anchor's prompt, or itself without the concept."""
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
            "paper-sd14-unsafe": cls(rounds=3, strength=0.1),
            "paper-sd14-unsafe-list": cls(rounds=2, strength=0.1),
            "paper-sd14-art": cls(rounds=1, strength=1e-3, first_keep_scale=0.1),
            "paper-sd14-object-easy": cls(rounds=1, strength=0.1),
            "paper-sd14-object-hard": cls(rounds=1, strength=1e-3),
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
        require(self, request)
        branches = text_branches(model, self)
        recording = Recording(model, generator=generator, monitor=monitor, steps=self.rounds + 1)
        patches: dict[str, Patch] = {}
        told: dict[str, Any] = {}
        for branch in branches:
            edit, conditioning, curve = self._edit(branch, request)
            patch = branch.patch(stored(edit, branch.weights))
            patches[branch.key] = patch
            found = asdict(conditioning) | {"rank": patch.rank}
            if branch is branches[0]:
                told |= found
                for figures in curve:
                    recording.step(figures)
            else:
                told[branch.key] = found | curve[-1]
        return recording.result(self, request, patches, diagnostics=told)

    def _edit(
        self, branch: TextBranch, request: ErasureRequest
    ) -> tuple[TextMap, Conditioning, list[dict[str, float]]]:
        """Solves the first edit and the rounds of everything that reads the same rows."""
        factor = joint_factor(branch.weights)
        kept = branch.kept(request.keep, tokens=self.tokens, always=self.always_keep)
        first = branch.erased(request.erasures, tokens=self.tokens, target=self.target)
        rows = None if self.rows == "all" else self.tokens
        chased = branch.apart(request.erasures, tokens=rows, target=self.target)
        named = {
            erasure.concept.name: branch.erased((erasure,), tokens="new", target=self.target)
            for erasure in request.erasures
        }
        length = torch.cat([pairs.sources for _, pairs in chased]).norm()
        solution = self._solve(first, kept, ridge=self.first_ridge, keep=self.first_keep_scale)
        edit, curve = solution.map, []
        for step in range(self.rounds + 1):
            problem = ReturnProblem.of(factor, edit.matrix())
            returning = self._returning(problem, chased)
            costs = costs_to_regenerate(problem, named)
            curve.append(
                costs
                | {
                    "returning_length": float(returning.sources.norm() / length),
                    "residual": residual(edit, first),
                    "interference": kept.interference(edit),
                }
            )
            if step == self.rounds or 0 < self.stop_at_cost <= costs["embedding_cost"]:
                break
            edit, solution = self._round(edit, returning, first, kept)
        return edit, solution.conditioning, curve

    def _round(
        self, edit: TextMap, returning: TokenPairs, first: TokenPairs, kept: KeepSet
    ) -> tuple[TextMap, Solution]:
        """Erases returning embeddings from the weights as they are now."""
        if self.aim == "original":
            # (W + change) e' = W0 t, so the change is solved for as one of the unedited weights.
            short = returning.targets - edit.of(returning.sources)
            returning = TokenPairs(returning.sources, returning.sources + short, returning.weights)
        moved = self._with_held(returning, first)
        solution = self._solve(moved, kept, ridge=self.ridge, keep=self.keep_scale)
        join = edit.plus if self.aim == "original" else edit.then
        return join(solution.map), solution

    def _with_held(self, returning: TokenPairs, first: TokenPairs) -> TokenPairs:
        """Adds the erased tokens as rows that stay, so that rounds keep what the first edit did."""
        if self.hold == 0:
            return returning
        return TokenPairs(
            torch.cat([returning.sources, first.sources]),
            torch.cat([returning.targets, first.sources]),
            torch.cat([returning.weights, self.hold * first.weights]),
        )

    def _solve(
        self,
        pairs: TokenPairs,
        kept: KeepSet,
        *,
        ridge: float,
        keep: float,
    ) -> Solution:
        """Erases token rows from the weights as they are now (equation 3)."""
        erase_factor, keep_factor = kept.factors(float(pairs.weights.sum()), self.weighting)
        held = kept.weighted(keep * keep_factor)
        return ridge_edit(pairs.scaled(self.erase_scale * erase_factor), held, ridge=ridge)

    def _returning(
        self, problem: ReturnProblem, chased: Sequence[tuple[TextStream, TokenPairs]]
    ) -> TokenPairs:
        """Finds the embeddings that do through the edited layers what the chased rows did.

        Each stream's rows are pulled to that stream's own row of the text.
        """
        strength = self.strength
        if self.strength_unit == "relative":
            strength *= float((problem.factor**2).sum()) / len(problem.factor)
        found = [
            returning_rows(
                problem,
                pairs.sources,
                strength=strength,
                regularisation=self.regularisation,
                toward=self._toward(stream),
            )
            for stream, pairs in chased
        ]
        return TokenPairs(
            torch.cat(found),
            torch.cat([pairs.targets for _, pairs in chased]),
            torch.cat([pairs.weights for _, pairs in chased]),
        )

    def _toward(self, stream: TextStream) -> Float[Tensor, "1 dim"] | None:
        if self.regularisation != "standard":
            return None
        return last_row(stream, self.toward)
