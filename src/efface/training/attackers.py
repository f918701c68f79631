"""Attackers who relearn a concept while a model is trained against them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.deltas.adapters import Adapters, attached
from efface.diffusion.denoising import Denoiser
from efface.hosts.conditions import Conditions
from efface.training.relearning import Relearning, denoising_error

__all__ = ["Attackers"]


class Attackers:
    """Some low-rank layers in training beside a network, each at another age, begun anew in turn.

    An attacker takes one step of Adam at a time on the denoising error of a concept's pictures, as
    `relearn` does, from the weights as they are by then. At ``settings.steps`` it starts over.

    Args:
        model: a pipeline.
        settings: what an attacker trains, how fast, and for how long.
        count: of attackers; their ages are spread evenly.
        generator: draws where they start, each time.
    """

    def __init__(
        self, model: Any, settings: Relearning, count: int, *, generator: torch.Generator
    ) -> None:
        self._settings, self._generator = settings, generator
        rank = settings.rank
        self._layers = [
            Adapters(model, settings.role, rank=rank, alpha=float(rank), generator=generator)
            for _ in range(count)
        ]
        self._optimisers = [self._optimiser(layers) for layers in self._layers]
        self._ages = [-(place * settings.steps // count) for place in range(count)]

    def __len__(self) -> int:
        return len(self._layers)

    def _optimiser(self, layers: Adapters) -> torch.optim.Adam:
        return torch.optim.Adam([*layers.parameters.values()], lr=self._settings.learning_rate)

    def step(
        self,
        denoiser: Denoiser,
        clean: Float[Tensor, "n c h w"],
        conditions: Conditions,
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Lets every attacker take one step; those who are done start over.

        Args:
            denoiser: the network that is being hardened.
            clean: latents of pictures of the concept.
            conditions: one prompt a picture.
            generator: draws pictures, noise levels and noise.

        Returns:
            The mean of their errors before it.
        """
        errors = []
        for place, layers in enumerate(self._layers):
            if self._ages[place] >= self._settings.steps:
                self._start_over(place)
            self._ages[place] += 1
            which = torch.randint(len(clean), (self._settings.batch,), generator=generator)
            factors = [*layers.parameters.values()]
            with attached(layers.layers(), lambda: None):
                error = denoising_error(denoiser, clean, conditions, which, generator)
                gradients = torch.autograd.grad(error, factors)
            for factor, gradient in zip(factors, gradients, strict=True):
                factor.grad = gradient
            self._optimisers[place].step()
            errors.append(error.detach())
        return torch.stack(errors).mean()

    def _start_over(self, place: int) -> None:
        layers = self._layers[place]
        with torch.no_grad():
            for key, factor in layers.parameters.items():
                if key.endswith("::up"):
                    factor.zero_()
                    continue
                drawn = torch.rand(factor.shape, generator=self._generator) * 2 - 1
                factor.copy_(drawn / factor.shape[1] ** 0.5)
        self._optimisers[place] = self._optimiser(layers)
        self._ages[place] = 0

    @contextmanager
    def in_force(self, attacker: Int[Tensor, " n"]) -> Iterator[None]:
        """Adds to every sample of a pass what one attacker has learnt.

        Args:
            attacker: which one, for each sample; -1: none.
        """
        with ExitStack() as stack:
            for place, layers in enumerate(self._layers):
                gates = (attacker == place).float()[:, None]
                stack.enter_context(attached(layers.layers(), partial(_given, gates)))
            yield

    def state_dict(self) -> dict[str, Any]:
        """Gives all that a checkpoint must hold."""
        return {
            "layers": [dict(layers.parameters) for layers in self._layers],
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "ages": list(self._ages),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        for layers, held in zip(self._layers, state["layers"], strict=True):
            for key, factor in layers.parameters.items():
                factor.data.copy_(held[key])
        for optimiser, each in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(each)
        self._ages = list(state["ages"])
        self._generator.set_state(state["generator"])


def _given(gates: Float[Tensor, "n 1"]) -> Float[Tensor, "n 1"]:
    return gates
