"""The mistakes in guides of sampling and their engine."""

from tests.mutations.running import Mutation

ENGINE = ("tests/guiding/test_engine.py",)
A_STAR = ("tests/guides/test_a_star.py",)

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
    Mutation(
        "A-STAR's ratio has the union below it",
        "guides/a_star.py",
        "shared, both = torch.minimum(one, other), one + other",
        "shared, both = torch.minimum(one, other), torch.maximum(one, other)",
        A_STAR,
    ),
    Mutation(
        "a layout is replaced by masks of maps",
        "guides/a_star.py",
        "torch.where(fixed[..., None, None], self._masks[samples], masks)",
        "masks",
        A_STAR,
    ),
    Mutation(
        "A-STAR's masks are never refreshed",
        "guides/a_star.py",
        "        self._remember(seen, visit.samples)\n",
        "",
        A_STAR,
    ),
    Mutation(
        "refinement of Attend-and-Excite goes on after its threshold",
        "guides/attend_and_excite.py",
        "going = going[above]",
        "going = going",
        ("tests/guides/test_attend_and_excite.py",),
    ),
    Mutation(
        "the smoothing kernel is as wide as it says",
        "guiding/words.py",
        '(2**0.5 if smoothing == "released" else 1.0)',
        "1.0",
        ("tests/guiding/test_words.py",),
    ),
    Mutation(
        "attention is shared out with the begin token",
        "guiding/words.py",
        "read[sample, tokens[sample].begin : end] = True",
        "read[sample, :end] = True",
        ("tests/guiding/test_words.py",),
    ),
    Mutation(
        "attention is not scaled by the width of heads",
        "guiding/attention_maps.py",
        "scores = layer.scale * query",
        "scores = query",
        ("tests/guiding/test_attention_maps.py",),
    ),
    Mutation(
        "the first latents of a callback are scaled twice",
        "guiding/callbacks.py",
        "scheduler) / scale",
        "scheduler)",
        ("tests/guiding/test_callbacks.py",),
    ),
)
