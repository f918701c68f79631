"""The one training loop: named loss terms in, trained parameters and curves out.

It stops at the first term that is not finite, can be interrupted and resumed bit for bit, and
knows nothing of what it trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from efface.deltas.recording import Recording
from efface.errors import ModelCollapsed
from efface.memory import translating_out_of_memory
from efface.training.checkpoints import Checkpointing, Keeper, Stateful
from efface.training.gradients import saliency_masks
from efface.training.hooks import Hooks, Masked, Plain
from efface.training.recomputing import computing
from efface.training.settings import Training

__all__ = ["Losses", "train"]

Losses: TypeAlias = Callable[[torch.Generator], Mapping[str, Tensor]]
"""Gives the weighted terms of one step's loss by name; all randomness from the generator."""


@dataclass
class _Loop:
    """Everything that changes while training, so that a checkpoint can hold it."""

    settings: Training
    parameters: Mapping[str, nn.Parameter]
    generator: torch.Generator
    hooks: Hooks
    optimiser: torch.optim.Optimizer
    step: int = 0
    moving: bool = False
    """Whether a step has begun to change the weights and is not counted yet."""
    rows: list[dict[str, float]] = field(default_factory=list)


def train(
    losses: Losses,
    parameters: Mapping[str, nn.Parameter],
    settings: Training,
    *,
    generator: torch.Generator,
    recording: Recording,
    hooks: Hooks | None = None,
    beside: Mapping[str, Stateful] | None = None,
    checkpointing: Checkpointing | None = None,
    stop: Callable[[int], bool] | None = None,
) -> None:
    """Trains parameters in place.

    Args:
        losses: the terms of one step, weighted.
        parameters: what is trained, by key.
        settings: steps, optimiser and the rest.
        generator: handed to ``losses``; its state is part of checkpoints.
        recording: takes one row of figures a step: the sum as ``loss``, and every term.
        hooks: other rules for gradients, and a constraint after every step.
        beside: whatever else a checkpoint must hold, such as a discriminator and its optimiser.
        checkpointing: where checkpoints go; left out, there are none.
        stop: asked before every step but the first, with the number of steps done; true ends it.
            What it says may depend on nothing but the weights and that number.

    Raises:
        ModelCollapsed: a term or a gradient became infinite or not a number; names it. The last
            checkpoint stays, which is of weights whose terms and gradients were finite.
        MemoryRanOut: on whatever device.
        BadRequest: a checkpoint is of another run.
    """
    loop = _Loop(
        settings, parameters, generator, hooks or Plain(), _optimiser(settings, parameters)
    )
    scaler = torch.amp.GradScaler(_device(parameters), enabled=settings.precision == "float16")
    scaling = {"gradient_scaler": scaler} if scaler.is_enabled() else {}
    checkpoint = Keeper(checkpointing, parameters, {**(beside or {}), **scaling})
    salient = Masked(parameters, _masks(losses, loop)) if settings.saliency < 1 else Plain()
    checkpoint.resume(loop)
    recording.resume(loop.rows)
    try:
        while loop.step < settings.steps:
            if stop is not None and loop.step and stop(loop.step):
                break
            checkpoint.begin(loop)
            terms = _gradients(losses, loop, scaler)
            checkpoint.keep(loop)
            _step(loop, scaler, salient)
            _count(loop, {"loss": sum(terms.values()), **terms})
            checkpoint.begin(loop)
            recording.step(loop.rows[-1])
    except ModelCollapsed as error:
        raise ModelCollapsed(f"{error}{checkpoint.remainder}") from None
    except BaseException:
        checkpoint.leave(loop)
        raise
    checkpoint.done()


def _optimiser(settings: Training, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            [*parameters.values()],
            lr=settings.learning_rate,
            momentum=settings.betas[0],
            weight_decay=settings.weight_decay,
        )
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    return kind(
        [*parameters.values()],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=0.0 if settings.optimiser == "adam" else settings.weight_decay,
    )


def _device(parameters: Mapping[str, nn.Parameter]) -> str:
    return next(iter(parameters.values())).device.type


def _masks(losses: Losses, loop: _Loop) -> dict[str, Tensor]:
    """Finds the steepest weights before training, from as many batches as one step has twice.

    SalUn takes the forgetting loss alone. So do these, mostly: terms that hold predictions as they
    are have no gradient at the unedited weights.
    """
    total = {key: torch.zeros_like(weight) for key, weight in loop.parameters.items()}
    draws = torch.Generator().manual_seed(loop.generator.initial_seed() ^ 1)
    for _ in range(2 * loop.settings.accumulate):
        with translating_out_of_memory():
            terms = losses(draws)
            sum(terms.values(), torch.zeros(())).backward()
        for key, weight in loop.parameters.items():
            if weight.grad is not None:
                total[key] += weight.grad
            weight.grad = None
    ranked = {key: gradient for key, gradient in total.items() if gradient.any()} or total
    return saliency_masks(ranked, loop.settings.saliency, scope=loop.settings.saliency_scope)


def _gradients(losses: Losses, loop: _Loop, scaler: Any) -> dict[str, float]:
    """Averages the gradients of some batches and checks every term; gives the terms' values."""
    settings, parameters = loop.settings, loop.parameters
    loop.optimiser.zero_grad(set_to_none=True)
    for group in loop.optimiser.param_groups:
        group["lr"] = settings.learning_rate * _factor(settings, loop.step)
    averages: dict[str, float] = {}
    gathered: dict[str, Tensor] = {}
    for _ in range(settings.accumulate):
        with translating_out_of_memory(), computing(settings.precision, parameters):
            terms = losses(loop.generator)
        values = {name: float(term.detach()) for name, term in terms.items()}
        _require_finite(values, loop)
        for name, value in values.items():
            averages[name] = averages.get(name, 0.0) + value / settings.accumulate
        weighted = {name: scaler.scale(term / settings.accumulate) for name, term in terms.items()}
        with translating_out_of_memory():
            loop.hooks.gradients(weighted, parameters)
        for key, weight in parameters.items():
            if weight.grad is not None:
                gathered[key] = weight.grad if key not in gathered else gathered[key] + weight.grad
                weight.grad = None
    for key, gradient in gathered.items():
        parameters[key].grad = gradient
    if not scaler.is_enabled():  # A scaler passes over steps whose gradients overflow.
        _require_finite_gradients(gathered, loop)
    return averages


def _step(loop: _Loop, scaler: Any, salient: Plain) -> None:
    """Moves the parameters, and bends them back to where they are allowed to be."""
    settings = loop.settings
    scaler.unscale_(loop.optimiser) if scaler.is_enabled() else None
    if settings.clip > 0:
        nn.utils.clip_grad_norm_(loop.parameters.values(), settings.clip)
    loop.moving = True
    with translating_out_of_memory():
        scaler.step(loop.optimiser)
    scaler.update()
    loop.hooks.after_step()
    salient.after_step()


def _factor(settings: Training, step: int) -> float:
    """Gives the step size of a step, as a share of the first."""
    if settings.schedule == "constant":
        return 1.0
    return 0.01 + 0.99 * (1 + math.cos(math.pi * step / settings.steps)) / 2


def _require_finite(values: Mapping[str, float], loop: _Loop) -> None:
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if not broken:
        return
    raise ModelCollapsed(
        f"the term '{broken[0]}' of the loss became {values[broken[0]]} at step {loop.step}; "
        f"lower learning_rate (it is {loop.settings.learning_rate}) or set clip"
    )


def _require_finite_gradients(gradients: Mapping[str, Tensor], loop: _Loop) -> None:
    for key, gradient in gradients.items():
        if not torch.isfinite(gradient).all():
            raise ModelCollapsed(
                f"the gradient of {key} is not finite at step {loop.step}, though the loss is; "
                f"lower learning_rate (it is {loop.settings.learning_rate}) or batch"
            )


def _count(loop: _Loop, figures: dict[str, float]) -> None:
    """Ends a step."""
    loop.step += 1
    loop.rows.append(figures)
    loop.moving = False
