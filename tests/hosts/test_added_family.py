"""A family of another package: one class in one file, and everything works on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAMILY = '''
"""A toy family: one cross-attention layer that reads one CLIP encoder."""

from types import SimpleNamespace

import torch
from diffusers import DDIMScheduler
from torch import nn

from efface.hosts.embedding import Embedder
from efface.hosts.host import Host, width_read
from efface.hosts.readers import key_values
from efface.hosts.toys import CLIP_WIDTH, clip_encoder, filled, tiny_tokenizer


class ToyFamily(Host):
    """Pipelines whose denoiser says that it is of this family."""

    key, title, part = "toy", "Toy Diffusion", "transformer"

    @classmethod
    def recognises(cls, model):
        return getattr(getattr(model, "transformer", None), "family", "") == "toy"

    @classmethod
    def widths_read(cls, tokens, pooled):
        yield width_read("transformer/key_value", tokens.get("text_encoder", 0))

    @property
    def readers(self):
        return (key_values(self.model, Embedder(self.model), part=self.part),)

    def predict(self, latents, times, conditions):
        return self.network(latents, times, conditions.rows)

    @classmethod
    def toy(cls, *, seed=0, dtype=torch.float32):
        tokenizer = tiny_tokenizer()
        text_encoder, network = clip_encoder(tokenizer, projected=False), Network()
        for part in (text_encoder, network):
            filled(part, torch.Generator().manual_seed(seed))
            part.eval().to(dtype)
        parts = {"tokenizer": tokenizer, "text_encoder": text_encoder, "transformer": network}
        scheduler = DDIMScheduler(clip_sample=False)
        config = SimpleNamespace(_name_or_path="toy")
        return SimpleNamespace(
            **parts, scheduler=scheduler, config=config, components={**parts}, vae=None
        )


class Network(nn.Module):
    """Adds what the text says to every latent."""

    family = "toy"

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(in_channels=4, sample_size=4)
        self.attn2 = nn.Module()
        self.attn2.to_k = nn.Linear(CLIP_WIDTH, 4, bias=False)
        self.attn2.to_v = nn.Linear(CLIP_WIDTH, 4, bias=False)

    def forward(self, latents, times, rows):
        weights = self.attn2.to_k(rows).mean(-1).softmax(-1)
        read = (weights[..., None] * self.attn2.to_v(rows)).sum(1)
        return latents * 0.1 + read[:, :, None, None]
'''
SCRIPT = """
import pytest
import torch

import efface
from efface.diffusion.denoising import Denoiser
from efface.diffusion.trajectories import sampled_pool
from efface.errors import BadRequest
from efface.hosts.families import FAMILIES, layout, tiny_pipeline

pipe = tiny_pipeline("toy")
assert layout(pipe) == "toy"
assert FAMILIES["toy"] == "Toy Diffusion"
denoiser = Denoiser(pipe)
pool = sampled_pool(
    denoiser,
    denoiser.conditions(["pistol"]),
    torch.tensor([0, 0]),
    steps=3,
    guidance=2.0,
    generator=torch.Generator().manual_seed(0),
)
assert pool.latents.shape == (6, 4, 4, 4)
for method in ("uce", "rece", "trce", "realera"):
    result = efface.erase(pipe, "pistol", anchor="lamp", keep=["cat", "dog"], method=method)
    assert list(result.delta.patches) == ["transformer/key_value"]
    assert result.diagnostics["erased_response"] > result.diagnostics["kept_response"]
with pytest.raises(BadRequest, match="esd does not edit Toy Diffusion; .*uce.* can"):
    efface.erase(pipe, "pistol", method="esd")
print("works")
"""


@pytest.mark.slow
def test_a_family_of_another_package_is_one_class_in_one_file(tmp_path):
    (tmp_path / "toy_family.py").write_text(FAMILY)
    facts = tmp_path / "toy_family-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-family\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[efface.hosts]\ntoy = toy_family\n")
    source = Path(__file__).parents[2] / "src"
    paths = os.pathsep.join([str(tmp_path), str(source)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "works", done.stderr
