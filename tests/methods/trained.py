"""What tests of methods that train have in common."""

import torch

from efface import registry
from efface.concepts import request
from efface.contracts import silent
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
