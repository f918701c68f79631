"""The mistakes in guides of sampling and their engine."""

from tests.mutations.running import Mutation

ENGINE = ("tests/guiding/test_engine.py",)

GUIDING = (
    Mutation(
        "momentum of SLD is not part of what it remembers",
        "guides/sld.py",
        "g = g + guide.momentum_scale * v",
        "g = g + 0 * v",
        ("tests/guides/test_sld.py",),
    ),
    Mutation(
        "SLD's test is of sizes, not signed",
        "guides/sld.py",
        "torch.where(distance < threshold,",
        "torch.where(distance.abs() < threshold,",
        ("tests/guides/test_sld.py",),
    ),
    Mutation(
        "SEGA's quantile is off by one element",
        "guides/sega.py",
        "- 1e-9) + 1",
        "- 1e-9)",
        ("tests/guides/test_sega.py",),
    ),
    Mutation(
        "SEGA adds what it should remove",
        "guides/sega.py",
        "-scale if removed else scale",
        "scale",
        ("tests/guides/test_sega.py",),
    ),
    Mutation(
        "NAG guides the empty prompt too",
        "guides/nag.py",
        "(passing >= 0) & (passing < count)",
        "passing < count",
        ("tests/guides/test_nag.py",),
    ),
    Mutation(
        "NAG does not bound what grows",
        "guides/nag.py",
        "torch.where(ratio > clip, led * (clip / ratio), led)",
        "led",
        ("tests/guides/test_nag.py",),
    ),
    Mutation(
        "SAFREE moves rows into the concept's space",
        "guides/safree.py",
        "changed = outside(rows[read], space)",
        "changed = rows[read] - outside(rows[read], space)",
        ("tests/guides/test_safree.py",),
    ),
    Mutation(
        "what the base predicts is asked of the edited model",
        "guiding/engine.py",
        "with self.run.base():",
        "with ExitStack():",
        ENGINE,
    ),
    Mutation(
        "the base is asked about latents that are not on the sampler's scale",
        "guiding/engine.py",
        "visit.scaled(visit.latents).repeat(len(conditions), 1, 1, 1)",
        "visit.latents.repeat(len(conditions), 1, 1, 1)",
        ("tests/guiding/test_modular.py",),
    ),
    Mutation(
        "the network is asked about latents that are not on the sampler's scale",
        "diffusion/sampling.py",
        "visit.scaled(visit.latents).repeat(len(asked), 1, 1, 1)",
        "visit.latents.repeat(len(asked), 1, 1, 1)",
        ENGINE,
    ),
    Mutation(
        "a guide's part of a run begins a step early",
        "guiding/course.py",
        "math.ceil(share * self.steps - 1e-9)",
        "math.floor(share * self.steps - 1e-9)",
        ENGINE,
    ),
)
