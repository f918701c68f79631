"""The smallest model with parts named as in a pipeline, and deltas for it."""

from types import SimpleNamespace

import torch
from torch import nn

from efface.deltas.delta import Delta
from efface.deltas.patches import DensePatch, LowRankPatch, RowPatch, TextMapPatch
from efface.deltas.provenance import Provenance, base_sketch

KEY = "unet/block.attn2.to_k.weight"
PLAIN = "unet/block.conv.weight"
ROWS = "text_encoder/embeddings.token_embedding.weight"
MAP = "unet/key_value"
WIDTH = 6


def drawn(seed, *shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


def toy(seed=0, dtype=torch.float32):
    """Builds ``unet`` with one key, one value and one convolution, and a ``text_encoder``."""
    unet, encoder = nn.Module(), nn.Module()
    unet.block, encoder.embeddings = nn.Module(), nn.Module()
    unet.block.attn2 = nn.Module()
    sizes = {"to_k": (4, WIDTH), "to_v": (5, WIDTH)}
    for number, (name, shape) in enumerate(sizes.items()):
        setattr(unet.block.attn2, name, holding(drawn(seed + number, *shape, dtype=dtype)))
    unet.block.conv = holding(drawn(seed + 7, 3, 2, 2, 2, dtype=dtype))
    encoder.embeddings.token_embedding = holding(drawn(seed + 8, 9, WIDTH, dtype=dtype))
    return SimpleNamespace(unet=unet, text_encoder=encoder)


def holding(weight):
    module = nn.Module()
    module.weight = nn.Parameter(weight)
    return module


def delta(model, patches, *, parents=(), **facts):
    """Wraps patches with the provenance that applying them needs."""
    provenance = Provenance(
        method="toy",
        revision=1,
        settings=facts,
        request={"erasures": [], "keep": []},
        seed=0,
        base_model="toy",
        base_sketch=base_sketch(model, tuple(patches)),
        versions={},
        parents=parents,
    )
    return Delta(patches=patches, provenance=provenance)


def dense(seed, key=KEY, shape=(4, WIDTH)):
    return {key: DensePatch(drawn(seed, *shape))}


def low_rank(seed, key=KEY, out=4, in_=WIDTH):
    return {key: LowRankPatch(drawn(seed, out, 2), drawn(seed + 1, 2, in_))}


def rows(seed):
    return {ROWS: RowPatch(torch.tensor([2, 5]), drawn(seed, 2, WIDTH))}


def text_map(seed):
    return {MAP: TextMapPatch(drawn(seed, WIDTH, 2), drawn(seed + 1, 2, WIDTH) / 4)}


def weights(model):
    return {
        f"{name}/{path}": value.detach().clone()
        for name, part in vars(model).items()
        for path, value in part.named_parameters()
    }


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


def close(one, other):
    return all(torch.allclose(one[key], other[key], rtol=1e-4, atol=1e-5) for key in one)
