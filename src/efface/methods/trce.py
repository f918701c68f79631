"""Moves the end-of-text embedding of unwanted prompts to that of safe ones (TRCE, ICCV 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.closed_form.text_space import TokenPairs, joined, ridge_edit
from efface.contracts import Eraser, Monitor, Paper, TextToImage, Work, silent
from efface.deltas.recording import Recording
from efface.errors import BadRequest
from efface.hosts.families import FAMILIES, layout
from efface.text.branch_edits import BranchEdit, edit_branches, movement
from efface.text.branches import text_branches
from efface.text.token_rules import embedded_pairs, prompts_read

if TYPE_CHECKING:
    from efface.concepts import Erasure, ErasureRequest
    from efface.deltas.results import ErasureResult
    from efface.hosts.streams import TextStream
    from efface.text.branches import TextBranch
    from efface.text.token_rules import PromptPair

__all__ = ["Trce"]


@dataclass(frozen=True, kw_only=True)
class Trce(Eraser[TextToImage]):
    """Makes prompts that name a concept end like the same prompts with something safe instead.

    Every wording of the concept is paired with the wording that names the anchor in its place, or
    nothing without an anchor. What the text encoder says at the end of the first (the [EoT] row,
    which sums a prompt up) is moved to what it says at the end of the second, in one closed form
    for all keys and values (section 3.2); kept prompts hold theirs. Seconds, no images. This is the
    paper's first stage, "TRCE(T)"; its second one, which trains on latents, is `trce_vision`.

    A pooled row *is* a state at the end of the text, so layers that read one are edited alike. T5
    has no row that sums a prompt up: there the concept's words, those after them and the end move,
    which together weigh as one end row (``t5_rows``).

    Differs from the paper:
        Rows are found by token ids; the released code counts words, so that a word of several
        tokens puts its end row in the wrong place. Both sides are means, so that one dimensionless
        weight balances them; the released weight is squared by accident and divided by 30,000.
        Without a ridge the system can be singular, which is refused; the released code inverts it
        in float32 all the same. Padding rows may be moved one by one (``padding_weight``); the
        released code moves the last of them with the weight of all, and none by default.
        The paper has a language model write the unsafe and safe phrases; here they are the
        request's: names, synonyms and prompts of the concept, and the anchor.
        The paper edits Stable Diffusion 1.4; what is done in families with a pooled row or with T5
        is ours.
    """

    name: ClassVar[str] = "trce"
    weakened_by = ("raise ridge", "raise keep_weight")
    strengthened_by = ("lower ridge", "lower keep_weight")
    paper: ClassVar[Paper] = Paper(
        "TRCE: Towards Reliable Malicious Concept Erasure in Text-to-Image Diffusion Models",
        "2503.07389",
        2025,
    )
    edits: ClassVar[frozenset[str]] = frozenset({"unet", "transformer"})
    families: ClassVar[frozenset[str]] = frozenset(FAMILIES)
    streams: ClassVar[bool] = True

    keep_weight: float = 1e-3
    """Weight of the kept rows' mean error beside that of the erased rows. Lower erases deeper."""
    end_weight: float = 1.0
    """Weight of the first end-of-text row, the one that the paper moves, and of a pooled row."""
    padding_weight: float = 0.0
    """Weight of every row after it. Encoders that pad with another token than the end need it."""
    concept_weight: float = 0.0
    """Weight of the rows of the concept's own words; they are moved to the last row, or in T5 to
    the anchor's word."""
    begin_weight: float = 0.0
    """Weight of the begin-of-text row, which is the same for all prompts; T5 has none."""
    t5_rows: Literal["words", "end"] = "words"
    """What stands for the end row in T5: all from the concept's first word on, or its end token."""
    ridge: float = 1e-3
    """Pull toward the unedited weights, in squared embedding norm; the paper has none."""
    always_keep: tuple[str, ...] = ("",)
    """Prompts kept in every request, beside those of the request."""

    def __post_init__(self) -> None:
        weights = ("end_weight", "padding_weight", "concept_weight", "begin_weight")
        for name in (*weights, "keep_weight", "ridge"):
            if getattr(self, name) < 0:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must not be negative")
        if not any(getattr(self, name) for name in weights):
            raise BadRequest(f"all of {', '.join(weights)} are zero, so no row would move")

    @classmethod
    def presets(cls) -> Mapping[str, Trce]:
        """Gives the paper's row weights, and settings for the bundled model.

        The published keep weights cannot be carried over: they multiply a cache of captions whose
        size is unknown [recalled from the note on the released code].
        """
        return {
            "paper-rows": cls(ridge=0.0),
            "emoji": cls(concept_weight=1.0, padding_weight=1.0, keep_weight=10.0, ridge=1e-3),
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
        recording = Recording(model, generator=generator, monitor=monitor, steps=1)
        edit = edit_branches(branches, lambda branch: self._edit(branch, request))
        if not edit.patches:
            raise BadRequest(
                f"{FAMILIES[layout(model)]} has none of the rows whose weight is above zero; set "
                "end_weight or concept_weight"
            )
        recording.step(edit.curve[0])
        return recording.result(self, request, edit.patches, diagnostics=edit.diagnostics)

    def _edit(self, branch: TextBranch, request: ErasureRequest) -> BranchEdit | None:
        """Edits everything that reads the same rows of text; both sides are means."""
        pairs = self._pairs(branch, request.erasures)
        if pairs is None:
            return None
        kept = branch.kept(request.keep, tokens="legacy", always=self.always_keep)
        mean = 1.0 / float(pairs.weights.sum())
        kept_gram = kept.averaged(self.keep_weight)
        solution = ridge_edit(pairs.scaled(mean), kept_gram, ridge=self.ridge)
        return BranchEdit(solution, [movement(solution.map, pairs, kept)])

    def _pairs(self, branch: TextBranch, erasures: Sequence[Erasure]) -> TokenPairs | None:
        """Stacks the rows to move of all wordings; None where a branch has none of them."""
        blocks = [
            self._rows(stream, pair)
            for stream in branch.streams
            for pair in embedded_pairs(stream, erasures, "prompt_without_concept")
        ]
        moving = [rows for rows in blocks if len(rows.weights)]
        return joined(moving) if moving else None

    def _rows(self, stream: TextStream, pair: PromptPair) -> TokenPairs:
        """Lists rows of the unsafe prompt with their places in the safe one, and their weights."""
        unsafe, safe = stream.embedded([pair.source, pair.target])
        places = [(0, 0, self.end_weight)] if stream.pooled else self._places(stream, pair)
        moving = [place for place in places if place[2] > 0]
        return TokenPairs(
            unsafe[[source for source, _, _ in moving]],
            safe[[target for _, target, _ in moving]],
            torch.tensor([weight for _, _, weight in moving], dtype=torch.float64),
        )

    def _places(self, stream: TextStream, pair: PromptPair) -> list[tuple[int, int, float]]:
        """Lists places in the unsafe prompt, in the safe one, and weights."""
        unsafe, safe = stream.tokenised(pair.source), stream.tokenised(pair.target)
        words = range(pair.first, pair.source_start + 1)
        if unsafe.framed:
            return self._framed_places(pair, unsafe.read, safe.read)
        ends, concept, begin = [(unsafe.end, safe.end)], safe.read - 1, self.begin_weight
        if not unsafe.begin:
            concept, begin = pair.target_start if pair.target_start >= 0 else safe.end, 0.0
            if self.t5_rows == "words":
                after = min(unsafe.end - pair.source_start, safe.end - pair.target_start)
                ends += [(own, concept) for own in words]
                ends += [
                    (pair.source_start + step, pair.target_start + step) for step in range(1, after)
                ]
        padding = range(1, min(unsafe.read - unsafe.end, safe.read - safe.end))
        return [
            (0, 0, begin),
            *((own, concept, self.concept_weight) for own in words),
            *((own, other, self.end_weight / len(ends)) for own, other in ends),
            *((unsafe.end + step, safe.end + step, self.padding_weight) for step in padding),
        ]

    def _framed_places(
        self, pair: PromptPair, read: int, safe_read: int
    ) -> list[tuple[int, int, float]]:
        """Lists places in a language model's rows: as in T5, from the concept to the last row.

        The last row stands for an end, which some of these models do not have.
        """
        target = pair.target_start if pair.target_start >= 0 else 0
        words = range(pair.first, pair.source_start + 1)
        after = min(read - pair.source_start, safe_read - pair.target_start)
        ends = [(read - 1, safe_read - 1)]
        if self.t5_rows == "words":
            ends += [(own, target) for own in words]
            steps = range(1, after - 1)
            ends += [(pair.source_start + step, pair.target_start + step) for step in steps]
        return [
            *((own, target, self.concept_weight) for own in words),
            *((own, other, self.end_weight / len(ends)) for own, other in ends),
        ]

    def work(self, request: ErasureRequest) -> Work:
        """Counts wordings with and without the concept."""
        always = self.always_keep
        return Work(prompts=prompts_read(request, target="prompt_without_concept", always=always))
