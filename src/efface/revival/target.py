"""A model under attack: the edited model, its trials, and what the unedited one gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface.concepts import Concept, names, wordings
from efface.contracts import Sample
from efface.deltas.application import AppliedDelta, unedited
from efface.deltas.patches import Patch
from efface.deltas.whole import write
from efface.diffusion.denoising import Denoiser
from efface.diffusion.trajectories import drawn_latents, stopped
from efface.errors import BadRequest
from efface.hosts.components import find
from efface.randomness import derive
from efface.revival.shared import SharedPictures

if TYPE_CHECKING:
    from efface.deltas.delta import Delta

__all__ = [
    "Knowledge",
    "Look",
    "Target",
    "adding",
    "named",
    "nameless",
    "partial",
    "renamed",
]

Look = Callable[[Float[Tensor, "n 3 h w"], Concept], Float[Tensor, " n"]]
"""Says how present a concept is in pictures, 0 to 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Knowledge:
    """What an attacker has beside the model."""

    others: tuple[str, ...] = ()
    """Prompts of other concepts, for what has nothing to do with this one."""
    look: Look | None = None
    """What the attacker's own judge sees; None: the attacker has none."""
    logits: Look | None = None
    """The same as log-odds and differentiable by pixels; None: the judge gives no gradient."""
    forbidden: tuple[str, ...] | None = None
    """Names that chosen tokens may not spell; None: the concept's own."""
    pictures: Float[Tensor, "n c h w"] | None = None
    """Pictures of the concept as clean latents; None: the unedited model draws them."""
    deltas: tuple[Delta, ...] = ()
    """Erasures of other concepts from the same base."""
    wordings: tuple[str, ...] = ()
    """Other names and descriptions of the concept that the erasure may not have been given."""


class Target:
    """An edited model, its concept and trials; attacks read it and leave it as it is.

    Everything is asked of the model as it is while an attack runs, with the erasure in force;
    `unedited` takes that off for a ``with`` block.

    Args:
        model: a pipeline.
        delta: the erasure; None: the unedited model is attacked, as a control.
        concept: what is brought back.
        trials: prompts with seeds; each is attacked by itself.
        steps: denoising steps of pictures.
        guidance: scale of classifier-free guidance of pictures.
        knowledge: what the attacker has beside the model.
        shared: pictures that other attacks on the same model have drawn.
    """

    def __init__(
        self,
        model: Any,
        delta: Delta | None,
        concept: Concept,
        trials: Sequence[Sample],
        *,
        steps: int,
        guidance: float,
        knowledge: Knowledge | None = None,
        shared: SharedPictures | None = None,
    ) -> None:
        if not trials:
            raise BadRequest("there is nothing to attack: give at least one trial")
        self.model, self.delta, self.concept = model, delta, concept
        self.trials, self.steps, self.guidance = tuple(trials), steps, guidance
        self.knowledge = knowledge or Knowledge()
        self.shared = shared or SharedPictures()
        self.setup = 0
        """Network evaluations that all trials share, such as those of pictures of the concept."""
        self._pictures: dict[str, Tensor] = {}
        self._denoiser = Denoiser(model)
        self._base = Denoiser(model)
        self._applied: AppliedDelta

    @property
    def denoiser(self) -> Denoiser:
        """The edited model's denoiser; its prompts are read by the edited text encoder."""
        return self._denoiser

    @property
    def evaluations(self) -> int:
        """Network evaluations of both models so far."""
        return self._denoiser.evaluations + self._base.evaluations

    @property
    def forbidden(self) -> tuple[str, ...]:
        """Names that chosen tokens may not spell."""
        known = self.knowledge.forbidden
        return names(self.concept) if known is None else known

    @contextmanager
    def unedited(self) -> Iterator[Denoiser]:
        """Hands out the unedited model's denoiser; only inside the block is it that."""
        with unedited(self.model):
            yield self._base

    def pictures(self, count: int) -> Float[Tensor, "count c h w"]:
        """Gives clean latents of pictures of the concept: those given, or the unedited model's.

        Raises:
            BadRequest: fewer were given.
        """
        given = self.knowledge.pictures
        if given is not None:
            if len(given) < count:
                raise BadRequest(
                    f"the attack learns from {count} pictures and {len(given)} were given; "
                    "give more, or lower its pictures"
                )
            return given[:count]
        return self.drawn("concept", wordings(self.concept), count)

    def pictures_by_trial(self, count: int) -> Float[Tensor, "trials n c h w"]:
        """Gives each trial clean latents to learn from: pictures of the concept, the same for all.

        Those of a style that the unedited model draws show what the trial's own prompt asks for:
        what a prompt says of anything else cannot bring their other contents about, and would be
        learnt in place of the style. Then ``count`` is how many all trials have together.
        """
        trials = len(self.trials)
        if self.concept.kind != "style" or self.knowledge.pictures is not None:
            return self.pictures(count).expand(trials, -1, -1, -1, -1)
        texts = [named(trial, self.concept) for trial in self.trials]
        each = -(-count // trials)
        drawn = self.drawn("style", texts, each * trials)
        return torch.stack([drawn[trial::trials] for trial in range(trials)])

    def drawn(self, purpose: str, prompts: Sequence[str], count: int) -> Float[Tensor, "n c h w"]:
        """Draws clean latents with the unedited model, prompts in turn, and remembers them.

        Args:
            purpose: under which they are remembered; also decides their noise.
            prompts: what is drawn.
            count: how many.
        """
        known = self._pictures.get(purpose)
        if known is not None and len(known) >= count:
            return known[:count]
        draws = derive(len(self.trials), f"pictures of {purpose}")
        stride = max(1, len(prompts) // count)
        texts = [prompts[(place * stride) % len(prompts)] for place in range(count)]
        clean = self.shared.of(
            (purpose, tuple(texts), len(self.trials), self.steps, self.guidance),
            lambda: self._drawn(texts, draws),
        )
        self.setup += 2 * count * self.steps
        self._pictures[purpose] = clean
        return clean

    def _drawn(self, texts: list[str], draws: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draws a clean latent for each prompt with the unedited model."""
        with self.unedited() as base:
            return stopped(
                base,
                base.conditions(texts),
                drawn_latents(base, len(texts), draws),
                torch.full((len(texts),), self.steps),
                steps=self.steps,
                guidance=self.guidance,
            )

    @contextmanager
    def edited(self) -> Iterator[None]:
        """Puts the erasure in force for a ``with`` block, in which the target is attacked."""
        if self.delta is None:
            yield
            return
        self._applied = self.delta.apply(self.model)
        try:
            yield
        finally:
            # Not always what was applied above: `variant` takes it off and puts it on again.
            self._applied.revert()

    @contextmanager
    def variant(self, without: frozenset[str], added: Mapping[str, Patch]) -> Iterator[Denoiser]:
        """Hands out a denoiser of the edited model with further changes, inside the block.

        Args:
            without: components whose patches are taken off, or ``gate`` for gated layers and maps
                of rows.
            added: changes of weights, as they are stored in deltas.
        """
        with self._partly(without), adding(self.model, added):
            yield Denoiser(self.model)

    @contextmanager
    def _partly(self, without: frozenset[str]) -> Iterator[None]:
        """Lets only some of the erasure's patches stand."""
        if self.delta is None or not without:
            yield
            return
        left = partial(self.delta, without)
        self._applied.revert()
        try:
            with nullcontext() if left is None else left.apply(self.model):
                yield
        finally:
            self._applied = self.delta.apply(self.model)


def partial(delta: Delta, without: frozenset[str]) -> Delta | None:
    """Gives a delta without the patches of some components; None if nothing is left.

    Args:
        delta: the whole.
        without: components, or ``gate`` for what stands beside the weights: all that a gate opens,
            and maps of rows.
    """
    kept, always = (
        {key: patch for key, patch in held.items() if key.partition("/")[0] not in without}
        for held in (delta.patches, delta.ungated)
    )
    if delta.gate is not None and ("gate" in without or not kept):
        kept, always = always, {}
        gate = None
    else:
        gate = delta.gate
    maps = {
        key: held
        for key, held in delta.row_maps.items()
        if "gate" not in without and key.partition("/")[0] not in without
    }
    if not kept and not maps:
        return None
    return replace(delta, patches=kept, ungated=always, gate=gate, row_maps=maps)


@contextmanager
def adding(model: Any, patches: Mapping[str, Patch]) -> Iterator[None]:
    """Adds patches to a model's weights as they are, and puts them back bit for bit."""
    targets = {key: find(model, key)[key] for key in patches}
    saved = {key: weight.detach().clone() for key, weight in targets.items()}
    if patches:
        write(targets, {key: saved[key] + patch.on(saved[key]) for key, patch in patches.items()})
    try:
        yield
    finally:
        write(targets, saved)


def nameless(sample: Sample, concept: Concept) -> Sample:
    """Takes a concept's names out of a trial's prompt."""
    text = sample.prompt
    for name in sorted(names(concept), key=len, reverse=True):
        text = text.replace(name, " ")
    return replace(sample, prompt=" ".join(text.split()))


def named(sample: Sample, concept: Concept) -> str:
    """Gives a trial's prompt with the concept's name: as it is, or with the name at its end."""
    if any(name in sample.prompt for name in names(concept)):
        return sample.prompt
    return f"{sample.prompt} {concept.name}".strip()


def renamed(sample: Sample, concept: Concept, word: str) -> str | None:
    """Puts other words in place of a concept's name in a trial's prompt; None: it has no name.

    An article before the name goes by the sound of what comes now, and goes away before words that
    bring their own.
    """
    alike = "|".join(re.escape(name) for name in sorted(names(concept), key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:(an?)(\s+))?(?:{alike})(?!\w)", re.IGNORECASE)

    def put(found: re.Match[str]) -> str:
        if word.partition(" ")[0].lower() in ("a", "an", "the", "what", ""):
            return word
        article = "an" if word[:1].lower() in "aeiou" else "a"
        return f"{article}{found[2]}{word}" if found[1] else word

    text, count = pattern.subn(put, sample.prompt)
    return text if count else None
