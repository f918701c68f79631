"""Settings of every method that trains on trajectories, and the prompts that a request means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from efface.concepts import Erasure, ErasureRequest
from efface.contracts import Eraser, TextToImage
from efface.errors import BadRequest, require_positive
from efface.hosts.roles import members
from efface.text.token_rules import TargetRule, WordingRule, anchor_name, mentions, target_prompt
from efface.training.settings import Training

__all__ = ["SMALL", "GradientEraser", "Trainable", "Wording", "require_anchor", "worded"]

SMALL: dict[str, Any] = {
    "target": "prompt_without_concept",
    "sampling_steps": 20,
    "sampling_guidance": 3.0,
    "trajectories": 48,
    "keep_trajectories": 96,
    "steps": 120,
    "schedule": "cosine",
    "batch": 6,
    "keep_batch": 20,
    "learning_rate": 2e-3,
    "optimiser": "adam",
}
"""Settings that fit a small model, such as the bundled one, whose presets start from them: pools of
48 and 96 trajectories, 120 steps of 6 latents and 20 kept ones."""


@dataclass(frozen=True)
class Trainable:
    """What a method trains: weights in place, or low-rank layers beside them."""

    role: str
    """Of the weights, see `efface.hosts.roles.members`."""
    rank: int = 0
    """Of the layers beside them; 0: the weights themselves are trained."""


@dataclass(frozen=True, kw_only=True)
class GradientEraser(Training, Eraser[TextToImage]):
    """Settings of every method that trains on latents of trajectories."""

    families: ClassVar[frozenset[str]] = frozenset({"sd1", "sd2", "sdxl"})
    edits: ClassVar[frozenset[str]] = frozenset({"unet"})
    weakened_by = ("lower learning_rate", "take fewer steps", "raise keep_weight")
    strengthened_by = ("raise learning_rate", "take more steps")

    target: TargetRule = "anchor"
    """What a wording becomes: itself with the anchor in place of the concept (anchor), the anchor's
    name alone (bare_anchor), or itself with the anchor or nothing (prompt_without_concept); the
    first two are the empty prompt without an anchor."""
    wordings: WordingRule = "all"
    """Which prompts are erased and kept: all wordings of a concept, or its names alone."""
    sampling_steps: int = 50
    """Denoising steps of a trajectory."""
    sampling_guidance: float = 3.0
    """Scale of classifier-free guidance that trajectories follow."""
    trajectories: int = 8
    """Trajectories of the frozen model that are kept in the pool, each with all its visits."""
    keep_weight: float = 0.0
    """Weight of holding the frozen model's predictions for kept prompts. No paper has just this;
    what some hold instead has settings of its own, or is Concept Ablation's prior."""
    keep_batch: int = 0
    """Latents of kept prompts per step; 0: as many as of the concept."""
    keep_trajectories: int = 24
    """Trajectories of kept prompts in the pool, where they have weight."""
    keep_unconditional: float = 0.0
    """Share of kept latents at which the prediction without a prompt is held instead of the
    prompt's; classifier-free guidance reads both."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "sampling_steps", "trajectories", "keep_trajectories")
        for name in ("keep_weight", "keep_batch"):
            if getattr(self, name) < 0:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.keep_unconditional <= 1:
            raise BadRequest(
                f"keep_unconditional is {self.keep_unconditional}; it is a share, of 0 to 1"
            )

    def trainable(self, concepts: int = 1) -> Trainable:  # noqa: ARG002
        """Says what is trained.

        Args:
            concepts: how many are erased; some methods have layers for each.
        """
        return Trainable(str(vars(self)["parameters"]))

    def chosen(self, model: Any, concepts: int = 1) -> dict[str, nn.Parameter]:
        """Lists the parameters that are trained, or get a low-rank layer beside them.

        Args:
            model: a pipeline, or an object with its networks.
            concepts: how many are erased.

        Raises:
            BadRequest: the model has nothing in the method's role.
        """
        return members(model, self.trainable(concepts).role)

    def pools_kept(self) -> bool:
        """Says whether trajectories of kept prompts are sampled before training."""
        return self.keep_weight > 0

    def requires_anchor(self) -> bool:
        """Says whether the settings put the anchor itself in the concept's place."""
        return False

    def check_request(self, request: ErasureRequest) -> None:
        """Refuses a request that lacks what the settings need, before any work.

        Raises:
            BadRequest, MissingInput: naming the method and the concept.
        """
        require_anchor(self, request)


def require_anchor(method: GradientEraser, request: ErasureRequest) -> None:
    """Refuses concepts without an anchor where the anchor itself must stand in their place.

    Raises:
        BadRequest: naming the method and the concept.
    """
    for erasure in request.erasures:
        if erasure.anchor is None and method.requires_anchor():
            raise BadRequest(
                f"{method.name} puts an anchor in the concept's place and "
                f"'{erasure.concept.name}' has none: name one with --anchor, or set "
                "target to prompt_without_concept"
            )


@dataclass(frozen=True)
class Wording:
    """One prompt of a concept, and what it shall give instead."""

    prompt: str
    name: str
    """The name of the concept that is used there; empty if none is."""
    anchor: str
    """The anchor's prompt; empty without an anchor."""
    erasure: Erasure


def worded(
    erasure: Erasure, rule: TargetRule, original: Erasure | None = None
) -> Iterator[Wording]:
    """Pairs every wording of a concept with the prompt that takes its place.

    Args:
        erasure: the concept with the prompts that count.
        rule: what takes their place.
        original: the erasure as the request has it, if not the same.
    """
    for prompt, name in mentions(erasure.concept):
        target = target_prompt(prompt, name, anchor_name(erasure), rule)
        yield Wording(prompt, name or "", target, original or erasure)
