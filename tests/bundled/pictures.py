"""How tests of the bundled models draw a few pictures."""

import torch

from efface.bundled.suites import GUIDANCE, STEPS


def drawn(pipe, prompts):
    """Draws each prompt with its place as seed; pixels of 0 to 1."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    made = pipe(
        list(prompts),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=generators,
        output_type="pt",
    )
    return made.images
