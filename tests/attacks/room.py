"""A toy target of a made-up erasure, and an attack driven without drawing."""

import torch

from efface.concepts import Concept
from efface.contracts import Sample
from efface.hosts.families import tiny_pipeline
from efface.randomness import derive
from efface.revival.target import Knowledge, Target

CAT = Concept(name="cat", synonyms=("kitty",))


def toy_target(*, prompts=("a cat on a mat", "a photo of a cat"), delta=None, wordings=()):
    """Gives a target whose pictures of the concept are given, so that nothing is drawn."""
    model = tiny_pipeline("sd1")
    pictures = torch.randn((4, *latent_shape(model)), generator=derive(0, "pictures"))
    trials = [Sample(text, seed, "erased", CAT) for seed, text in enumerate(prompts)]
    return Target(
        model,
        delta,
        CAT,
        trials,
        steps=2,
        guidance=3.0,
        knowledge=Knowledge(pictures=pictures, wordings=wordings),
    )


def latent_shape(model):
    """Gives the shape of one latent."""
    config = model.unet.config
    return config.in_channels, config.sample_size, config.sample_size


def driven(attack, target, *, seed=0, close=()):
    """Collects all attempts; trials of ``close`` end after their first attempt."""
    found, opened = [], set(range(len(target.trials)))
    with target.edited():
        course = attack.attempts(target, generator=derive(seed, attack.name))
        try:
            attempts = next(course)
            while True:
                found.append(list(attempts))
                opened -= {one.trial for one in attempts} & set(close)
                attempts = course.send(frozenset(opened))
        except StopIteration:
            return found
