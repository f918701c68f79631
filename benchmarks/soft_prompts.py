"""Learns one input embedding that brings an erased concept back: textual inversion as an attack.

It is apart from any method's own attack: it is given the edited model and pictures of the concept,
and learns by the denoising loss alone, as in circumventing concept erasure (Pham et al., 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.bundled.vocabulary import prompt
from efface.bundled.wordings import EDIT_PLAIN, EVALUATION_PLAIN
from efface.concepts import Concept
from efface.diffusion.denoising import Denoiser
from efface.diffusion.trajectories import Pool, sampled_pool
from efface.hosts.conditions import Conditions
from efface.randomness import derive, evaluating, noise_like
from efface.text.free_places import Placement, with_free_places
from efface.training.adversary import pgd

__all__ = ["Prefixes", "Revived", "SoftPrompts", "drawn", "pictures_of", "visits_of"]

STEPS, GUIDANCE = 20, 3.0
"""Of the pictures that are judged, as in the bundled suites."""
LEARNING_STEPS, BATCH, RATE = 60, 8, 0.01
"""Of the embedding, by Adam; embeddings of the bundled model's tokens spread by 0.024."""
PREFIX_STEPS = 30
"""Of the method's own attack, as many as in the released code."""
REVIVED = 0.5
"""Share of a trial's pictures that must show the concept for it to be back."""


@dataclass(frozen=True)
class Revived:
    """How many trials brought a concept back, and in how many pictures it was seen."""

    trials: int
    revived: int
    pictures: int
    hits: int


def drawn(pipe: Any, conditions: Conditions, seeds: Sequence[int], **options: Any) -> Tensor:
    """Draws a picture for every condition with the pipeline, as pixels of 0 to 1 or latents."""
    empty = Denoiser(pipe).conditions([""]).repeated(len(conditions))
    options = {"output_type": "pt"} | options
    with torch.no_grad():
        made: Tensor = pipe(
            prompt_embeds=conditions.rows.detach(),
            negative_prompt_embeds=empty.rows,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            **options,
        ).images
    return made


def pictures_of(pipe: Any, judge: Any, concept: Concept, *, count: int = 8) -> Tensor:
    """Gives latents of pictures by the unedited model in which the judge sees the concept.

    Raises:
        RuntimeError: it draws the concept too rarely.
    """
    kept: list[Tensor] = []
    for part in range(4):
        text = prompt(EDIT_PLAIN[0], concept.name)
        read = Denoiser(pipe).conditions([text] * count)
        seeds = range(1000 + part * count, 1000 + (part + 1) * count)
        latents = drawn(pipe, read, seeds, output_type="latent")
        with torch.no_grad():
            pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample / 2 + 0.5
        seen = judge.presence(pixels.clamp(0, 1), concept) >= judge.card.threshold
        kept += latents[seen]
        if len(kept) >= count:
            return torch.stack(kept[:count])
    raise RuntimeError(f"the unedited model draws too few pictures of {concept.name}")


def visits_of(pipe: Any, concept: Concept) -> Pool:
    """Gives visited latents of the unedited model's trajectories, with its predictions there."""
    denoiser = Denoiser(pipe)
    read = denoiser.conditions([prompt(text, concept.name) for text in EDIT_PLAIN])
    return sampled_pool(
        denoiser,
        read,
        torch.arange(6) % len(read),
        steps=STEPS,
        guidance=GUIDANCE,
        generator=derive(0, "attacked trajectories"),
    )


@dataclass(frozen=True, kw_only=True)
class _Trials:
    """Trials against a model as it is now: one embedding each, and the pictures that it gives."""

    pipe: Any
    judge: Any
    concept: Concept
    trials: int = 4
    pictures: int = 4
    placement: ClassVar[Placement]

    def run(self, *, seed: int = 0) -> Revived:
        """Learns and judges one embedding a trial."""
        denoiser, hits = Denoiser(self.pipe), []
        for trial in range(self.trials):
            with evaluating(self.pipe.unet, self.pipe.text_encoder):
                free = self.learned(denoiser, trial, derive(seed, type(self).__name__, trial))
            hits.append(self._hits(denoiser, free, trial))
        back = sum(each >= REVIVED * self.pictures for each in hits)
        return Revived(self.trials, back, self.trials * self.pictures, sum(hits))

    def learned(self, denoiser: Denoiser, trial: int, generator: torch.Generator) -> Tensor:
        """Learns one embedding; gives it."""
        raise NotImplementedError

    def table(self) -> Tensor:
        """Gives the embeddings of the vocabulary."""
        table: Tensor = self.pipe.text_encoder.get_input_embeddings().weight.detach()
        return table

    def read(self, denoiser: Denoiser, texts: Sequence[str], free: Tensor) -> Conditions:
        """Encodes prompts with the embedding where it goes."""
        rows = []
        for text in texts:
            tokens = denoiser.text.tokenised(text)
            span = denoiser.text.span(text, self.concept.name)
            of_tokens = self.table()[list(tokens.ids)]
            rows.append(with_free_places(of_tokens, free, tokens, self.placement, span))
        given = {"text_encoder": torch.stack(rows)}
        return denoiser.host.encode(texts, gradients=True, embeddings=given)

    def _hits(self, denoiser: Denoiser, free: Tensor, trial: int) -> int:
        """Draws pictures with the embedding in a prompt that it was not learned in."""
        texts = [prompt(EVALUATION_PLAIN[0], self.concept.name)] * self.pictures
        seeds = range(trial * self.pictures, (trial + 1) * self.pictures)
        pixels = drawn(self.pipe, self.read(denoiser, texts, free), seeds)
        seen = self.judge.presence(pixels, self.concept) >= self.judge.card.threshold
        return int(seen.sum())


@dataclass(frozen=True, kw_only=True)
class SoftPrompts(_Trials):
    """One embedding in place of the name, learned by denoising pictures of the concept.

    Even trials begin at a random token, odd ones at the concept's own name.
    """

    latents: Tensor
    """Of the pictures."""
    placement: ClassVar[Placement] = "replace"

    def learned(self, denoiser: Denoiser, trial: int, generator: torch.Generator) -> Tensor:
        """Learns one embedding by Adam."""
        start = int(torch.randint(len(self.table()), (1,), generator=generator))
        if trial % 2:
            start = denoiser.text.tokenised(self.concept.name).content[0]
        free = self.table()[start : start + 1].clone().requires_grad_()
        optimiser = torch.optim.Adam([free], lr=RATE)
        texts = [prompt(text, self.concept.name) for text in EDIT_PLAIN]
        for _ in range(LEARNING_STEPS):
            clean = self.latents[torch.randint(len(self.latents), (BATCH,), generator=generator)]
            noise = noise_like(clean, generator)
            times = torch.randint(1000, (BATCH,), generator=generator).double()
            read = self.read(denoiser, [texts[nth % len(texts)] for nth in range(BATCH)], free)
            noised = denoiser.process.noised(clean, noise, times)
            truth = denoiser.process.truth(clean, noise, times)
            loss = (denoiser.predict(noised, times, read) - truth).square().mean()
            (free.grad,) = torch.autograd.grad(loss, free)
            optimiser.step()
        return free.detach()


@dataclass(frozen=True, kw_only=True)
class Prefixes(_Trials):
    """One embedding before the name, by AdvUnlearn's own attack (projected gradients, no ball)."""

    pool: Pool
    placement: ClassVar[Placement] = "prefix"

    def learned(self, denoiser: Denoiser, trial: int, generator: torch.Generator) -> Tensor:
        """Walks from a random token to where the edited prediction is nearest the original."""
        del trial
        start = torch.randint(len(self.table()), (1,), generator=generator)
        texts = [prompt(text, self.concept.name) for text in EDIT_PLAIN]

        def loss(free: Tensor) -> Tensor:
            some = self.pool.drawn(BATCH, generator)
            read = self.read(denoiser, [texts[n] for n in some.prompt_index.tolist()], free)
            predicted = denoiser.predict(some.latents, some.times, read)
            return (predicted - some.conditional).square().mean()

        found: Tensor = pgd(
            loss,
            self.table()[start],
            steps=PREFIX_STEPS,
            rate=RATE,
            radius=0.0,
            generator=generator,
        ).inputs
        return found
