"""Hard prompts by projected embeddings: the unedited model's prediction as aim (P4D, ICML 2024)."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.contracts import Access, Attack, Paper
from efface.errors import require_positive
from efface.revival.reconstruction import Noised
from efface.revival.target import named, nameless
from efface.revival.token_search import nearest
from efface.revival.tokens import TOKEN_FAMILIES, Tokens
from efface.revival.trials import Course, trial_draws

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.revival.attempts import Attempt
    from efface.revival.target import Target

__all__ = ["HardPrompt"]


@dataclass(frozen=True, kw_only=True)
class HardPrompt(Attack):
    """Learns embeddings whose nearest tokens make the edited model predict what the unedited did.

    Each step takes every embedding's nearest token by cosine, takes the gradient there, and applies
    it to the embedding (PEZ, Wen et al. 2023). The aim is the unedited model's prediction for the
    prompt with the concept's name, read by the unedited text encoder (P4D), or the noise itself
    (PEZ on the denoising error). Form ``n`` is free tokens and nothing else; form ``k`` puts one
    token before every few of the prompt without the concept's name.

    Differs from the paper:
        Defaults are small: 30 steps with two samples each and an attempt every 10, where the paper
        has 3,000 steps (preset ``paper-n``, ``paper-k``) and a picture every 50. Every new prompt
        is drawn, rather than that with the best CLIP similarity. The released code pads with
        another token while it learns than while it draws; here a prompt is read as it is drawn.
        In form k a token may come between the pieces of a word; the text is then read as it is
        typed, in other pieces, as in the released code.
        Where a prompt does not hold the concept's name, the name at its end makes the aim.
    """

    name: ClassVar[str] = "hard_prompt"
    paper: ClassVar[Paper | None] = Paper(
        "Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic "
        "Prompts",
        "2309.06135",
        2024,
    )
    revision: ClassVar[int] = 2
    access: ClassVar[Access] = "gradients"
    families: ClassVar[frozenset[str]] = TOKEN_FAMILIES

    form: Literal["n", "k"] = "n"
    """Free tokens (n), or tokens within the prompt without the concept's name (k)."""
    tokens: int = 6
    """Tokens of form n."""
    gap: int = 3
    """Tokens of the prompt after each learnt one, in form k."""
    aim: Literal["prediction", "noise"] = "prediction"
    """What is to be predicted: what the unedited model predicts, or the noise that was added."""
    steps: int = 30
    """Optimiser steps."""
    every: int = 10
    """Steps between attempts."""
    batch: int = 2
    """Noised pictures per trial and step; the unedited model is asked about each as well."""
    learning_rate: float = 0.1
    """Step size of AdamW, in the units of embeddings of Stable Diffusion scaled to the table's."""
    weight_decay: float = 0.1
    """Pull of embeddings to zero per step, as a share of the step size."""
    earliest: float = 0.3
    """Share of the times, from clean to noise, that are not learnt from."""
    pictures: int = 8
    """Pictures of the concept that are learnt from; of a style, of what each trial asks for."""

    def __post_init__(self) -> None:
        require_positive(self, "tokens", "gap", "steps", "every", "batch", "learning_rate")
        require_positive(self, "pictures")

    @classmethod
    def presets(cls) -> Mapping[str, HardPrompt]:
        """Gives the paper's numbers of both forms."""
        return {
            f"paper-{form}": cls(
                form=form, tokens=16, steps=3000, every=50, batch=1, earliest=0.0, pictures=1
            )
            for form in ("n", "k")
        }

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Attacks trials with as many learnt tokens together, one such group after another."""
        draws, course, vocabulary = trial_draws(target, generator), Course(target), Tokens(target)
        groups: dict[int, list[int]] = {}
        for trial in course.opened:
            groups.setdefault(self._count(target, trial), []).append(trial)
        for count, group in sorted(groups.items()):
            yield from self._search(target, vocabulary, course, draws, count, group)

    def _count(self, target: Target, trial: int) -> int:
        if self.form == "n":
            return self.tokens
        bare = nameless(target.trials[trial], target.concept).prompt
        return len(target.denoiser.text.tokenised(bare).content) // self.gap + 1

    def _search(
        self,
        target: Target,
        vocabulary: Tokens,
        course: Course,
        draws: Sequence[torch.Generator],
        count: int,
        group: Sequence[int],
    ) -> Generator[Sequence[Attempt], frozenset[int], None]:
        """Learns the embeddings of some trials, which have as many."""
        bare = [nameless(target.trials[trial], target.concept).prompt for trial in group]
        prompts = [""] * len(group) if self.form == "n" else bare
        places = vocabulary.places(prompts, count, placement="insert")
        free = vocabulary.allowed.nonzero().flatten()
        starts = [torch.randint(len(free), (count,), generator=draws[trial]) for trial in group]
        learnt = vocabulary.table[free[torch.stack(starts)]].clone()
        # A step of 0.1 in a table whose embeddings are 0.4 long, as those of CLIP ViT-L/14 are.
        scale = float(vocabulary.table.norm(dim=1).median()) / 0.4
        optimiser = torch.optim.AdamW(
            [learnt], lr=self.learning_rate * scale, weight_decay=self.weight_decay
        )
        for step in range(1, self.steps + 1):
            index = [place for place, trial in enumerate(group) if trial in course.opened]
            if not index:
                return
            some = [group[place] for place in index]
            noised = self._noised(target, course, draws, some)
            near = nearest(vocabulary.table, learnt[index], vocabulary.allowed)
            at = vocabulary.table[near].clone().requires_grad_()
            errors = noised.errors(target.denoiser, vocabulary.encode(places[index], at))
            (gradient,) = torch.autograd.grad(errors.sum(), at)
            course.spend(self.batch, some)
            learnt.grad = torch.zeros_like(learnt)
            learnt.grad[index] = gradient
            optimiser.step()
            if step % self.every and step != self.steps:
                continue
            texts = vocabulary.words(places, nearest(vocabulary.table, learnt, vocabulary.allowed))
            attempts = course.attempts(
                {group[place]: texts[place] for place in index},
                f"{count} tokens after {step} steps",
                last=step == self.steps,
            )
            if attempts:
                course.follow((yield attempts))

    def _noised(
        self,
        target: Target,
        course: Course,
        draws: Sequence[torch.Generator],
        trials: Sequence[int],
    ) -> Noised:
        """Draws a step's samples with what they should predict."""
        noised = Noised.drawn(
            target,
            draws,
            self.batch,
            pictures=self.pictures,
            trials=trials,
            earliest=self.earliest,
        )
        if self.aim == "noise":
            return noised
        course.spend(self.batch, trials)
        prompts = [named(target.trials[trial], target.concept) for trial in trials]
        return noised.as_unedited(target, prompts)
