"""What tests of methods that train have in common."""

from contextlib import contextmanager

import torch

from efface import registry
from efface.concepts import request
from efface.contracts import silent
from efface.runs.gradient_runs import GradientRun
from tests.cases import TRAINED

PISTOL = request("pistol", keep=["cat"])
TO_LAMP = request("pistol", anchor="lamp", keep=["cat"])


def made(method, **settings):
    """Builds a method with toy settings."""
    return registry.build("methods", method, **(TRAINED | settings))


def ran(method, pipe, wanted=PISTOL, *, seed=0, monitor=silent, **settings):
    """Erases from a toy pipeline; gives the result."""
    generator = torch.Generator().manual_seed(seed)
    eraser = made(method, **settings)
    return eraser.erase(pipe, wanted, generator=generator, monitor=monitor)


def first(result, term):
    """Gives a term of the loss before the first step was taken."""
    return result.curves[term][0]


def one_step(method, pipe, wanted=PISTOL, **settings):
    """Erases with a single step, on one trajectory and a batch that is the whole pool's size."""
    small = {"steps": 1, "keep_weight": 0.0, "batch": 64, "trajectories": 4}
    return ran(method, pipe, wanted, **(small | settings))


ONE = {"steps": 1, "keep_weight": 0.0, "batch": 1, "trajectories": 1, "sampling_steps": 1}
"""Settings under which a pool is one latent, so that every batch is known."""


def at_one_latent(method, pipe, wanted=PISTOL, **settings):
    """Gives a method's run, and its pool; `ran` with the same settings and `ONE` has the same."""
    eraser = made(method, **(ONE | settings))
    generator = torch.Generator().manual_seed(0)
    run = GradientRun(eraser, pipe, wanted, generator=generator, monitor=silent)
    return run, run.pool()


class Nameless(GradientRun):
    """A run whose concept is the empty prompt, which a request cannot name."""

    prompts = property(lambda self: self.empty(len(self.wordings)))


@contextmanager
def gradients_at(weight):
    """Collects the gradients that reach a weight in training."""
    seen, before = [], weight.requires_grad
    weight.requires_grad_(requires_grad=True)
    handle = weight.register_hook(lambda gradient: seen.append(gradient.detach().clone()))
    try:
        yield seen
    finally:
        handle.remove()
        weight.requires_grad_(requires_grad=before)
