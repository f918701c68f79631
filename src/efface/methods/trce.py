"""Moves the end-of-text embedding of unwanted prompts to that of safe ones (TRCE, ICCV 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from efface.contracts import Eraser, Monitor, Need, Paper, TextToImage, silent
from efface.core.attention import key_value_weights
from efface.core.branches import check_family
from efface.core.checks import require
from efface.core.edit_report import residual, stored
from efface.core.keep_sets import kept_set
from efface.core.recording import Recording
from efface.core.text import Embedder
from efface.core.text_space import TokenPairs, joined, ridge_edit
from efface.core.token_rules import PromptPair, embedded_pairs
from efface.errors import BadRequest
from efface.models.components import KEY_VALUE

if TYPE_CHECKING:
    from efface.concepts import ErasureRequest
    from efface.core.results import ErasureResult

__all__ = ["Trce"]


@dataclass(frozen=True, kw_only=True)
class Trce(Eraser[TextToImage]):
    """Makes prompts that name a concept end like the same prompts with something safe instead.

    Every wording of the concept is paired with the wording that names the anchor in its place, or
    nothing without an anchor. What the text encoder says at the end of the first (the [EoT] row,
    which sums a prompt up) is moved to what it says at the end of the second, in one closed form
    for all keys and values (section 3.2); kept prompts hold theirs. Seconds, no images. This is the
    paper's first stage, "TRCE(T)"; its second one, which trains on images, is not part of it.

    Differs from the paper:
        Rows are found by token ids; the released code counts words, so that a word of several
        tokens puts its end row in the wrong place. Both sides are means, so that one dimensionless
        weight balances them; the released weight is squared by accident and divided by 30,000.
        Without a ridge the system can be singular, which is refused; the released code inverts it
        in float32 all the same. Padding rows may be moved one by one (``padding_weight``); the
        released code moves the last of them with the weight of all, and none by default.
        The paper has a language model write the unsafe and safe phrases; here they are the
        request's: names, synonyms and prompts of the concept, and the anchor.
    """

    paper: ClassVar[Paper] = Paper(
        "TRCE: Towards Reliable Malicious Concept Erasure in Text-to-Image Diffusion Models",
        "2503.07389",
        2025,
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"prompts"})
    edits: ClassVar[frozenset[str]] = frozenset({"unet"})
    streams: ClassVar[bool] = True

    keep_weight: float = 1e-3
    """Weight of the kept rows' mean error beside that of the erased rows. Lower erases deeper."""
    end_weight: float = 1.0
    """Weight of the first end-of-text row, the one that the paper moves."""
    padding_weight: float = 0.0
    """Weight of every row after it. Encoders that pad with another token than the end need it."""
    concept_weight: float = 0.0
    """Weight of the rows of the concept's own words; they are moved to the last row."""
    begin_weight: float = 0.0
    """Weight of the begin-of-text row, which is the same for all prompts."""
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
        require(self, request)
        check_family(model, self)
        recording = Recording(model, generator=generator, monitor=monitor, steps=1)
        embedder = Embedder(model)
        weights = key_value_weights(model.unet, embedder.width)
        paired = embedded_pairs(embedder, request.erasures, "prompt_without_concept")
        pairs = joined(self._rows(embedder, pair) for pair in paired)
        kept = kept_set(embedder, request.keep, tokens="legacy", always=self.always_keep)
        held = kept.averaged(self.keep_weight)
        mean = 1.0 / float(pairs.weights.sum())
        solution = ridge_edit(pairs.scaled(mean), held, ridge=self.ridge)
        moved = {
            "residual": residual(solution.map, pairs),
            "interference": kept.interference(solution.map),
        }
        recording.step(moved)
        patch = stored(solution.map, weights)
        found = asdict(solution.conditioning) | moved | {"rank": patch.left.shape[1]}
        return recording.result(self, request, {KEY_VALUE: patch}, diagnostics=found)

    def _rows(self, embedder: Embedder, pair: PromptPair) -> TokenPairs:
        """Lists rows of the unsafe prompt with their places in the safe one, and their weights."""
        unsafe, safe = embedder.embedded([pair.source, pair.target])
        end, other = embedder.tokenised(pair.source).end, embedder.tokenised(pair.target).end
        last = len(unsafe) - 1
        padding = range(1, last + 1 - max(end, other))
        places = [
            (0, 0, self.begin_weight),
            *((own, last, self.concept_weight) for own in range(pair.first, pair.source_start + 1)),
            (end, other, self.end_weight),
            *((end + step, other + step, self.padding_weight) for step in padding),
        ]
        moving = [place for place in places if place[2] > 0]
        sources, targets, weights = zip(*moving, strict=True)
        return TokenPairs(
            unsafe[list(sources)], safe[list(targets)], torch.tensor(weights, dtype=torch.float64)
        )
