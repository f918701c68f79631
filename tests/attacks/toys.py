"""What tests of attacks share: a toy target with an erasure, and a run through an attack."""

from contextlib import contextmanager
from functools import cache

import torch

from efface import registry
from efface.concepts import Concept, request
from efface.contracts import Sample
from efface.hosts.components import parameters
from efface.revival.drawing import draw
from efface.revival.target import Knowledge, Target
from tests.methods.trained import ran

PISTOL = Concept(name="pistol")
TRIALS = tuple(
    Sample(prompt=f"a {color} pistol", seed=seed, role="erased", concept=PISTOL)
    for seed, color in enumerate(("red", "green"))
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@cache
def erasure(pipe, method="uce"):
    """Gives a delta of a toy pipeline, of any method; made once for each pipeline."""
    wanted = request("pistol", keep=["cat"])
    if method == "uce":
        return registry.build("methods", method).erase(pipe, wanted, generator=generator()).delta
    return ran(method, pipe, wanted).delta


def target_of(pipe, delta, *, trials=TRIALS, steps=3, guidance=3.0, **known):
    return Target(
        pipe,
        delta,
        PISTOL,
        trials,
        steps=steps,
        guidance=guidance,
        knowledge=Knowledge(**known),
    )


def seen_nowhere(images, concept):
    return torch.zeros(len(images))


def course(attack, target, *, close_after=None):
    """Lists what an attack yields while its trials stay open, or until some were yielded."""
    found = []
    with target.edited():
        attempts = attack.attempts(target, generator=generator())
        still = frozenset(range(len(target.trials)))
        try:
            turn = next(attempts, None)
            while turn is not None:
                found.append(turn)
                if close_after is not None and len(found) >= close_after:
                    still = frozenset()
                    break
                turn = attempts.send(still)
        except StopIteration:
            pass
        finally:
            attempts.close()
    return found


def drawn(target, attempts):
    with target.edited():
        return draw(target, attempts)


@contextmanager
def left_as_found(pipe):
    """Fails when weights, gradients, hooks or switches differ afterwards."""
    before = state(pipe)
    yield
    after = state(pipe)
    assert before.keys() == after.keys()
    for key, (value, *rest) in before.items():
        assert torch.equal(value, after[key][0]), key
        assert rest == list(after[key][1:]), key


def state(pipe):
    found = {
        key: (weight.detach().clone(), weight.requires_grad, weight.grad is None)
        for key, weight in parameters(pipe)
    }
    for name in ("unet", "text_encoder", "vae"):
        network = getattr(pipe, name)
        hooks = [
            (len(part._forward_hooks), len(part._forward_pre_hooks), part.training)
            for part in network.modules()
        ]
        found[f"{name} hooks"] = (torch.zeros(0), hooks)
    return found
