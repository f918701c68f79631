"""Chroma: whether its transformer reads the padding that its pipeline's mask would hide."""

import torch

from efface.hosts.families import host_of
from tests.conftest import shared


def test_padding_beyond_the_mask_changes_what_is_predicted():
    """The mask is added as numbers; a diffusers that hides padding by it must fail here."""
    known = host_of(shared("tiny_chroma"))
    latents = torch.randn(1, *known.latent_shape, generator=torch.Generator().manual_seed(0))
    asked, times = known.encode(["a cat"]), torch.tensor([500.0])
    assert asked.read.sum() == known.readers[0].streams[0].tokenised("a cat").end + 2
    with torch.no_grad():
        before = known.predict(latents, times, asked)
        asked.rows[~asked.read] += 3.0
        after = known.predict(latents, times, asked)
    assert (after - before).abs().max() > 1e-3
    assert known.readers[0].streams[0].tokenised("a cat").read == asked.rows.shape[1] == 512
