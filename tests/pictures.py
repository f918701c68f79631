"""Toy pictures with classes that a toy network learns in a second, and toys that learnt them."""

from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional

from efface.concepts import Concept, described, request
from efface.data.pictures import identity_of
from efface.deltas.delta import Delta
from efface.deltas.patches import DensePatch
from efface.deltas.provenance import Provenance, base_sketch
from efface.hosts.vision_families import VISION_HOSTS, vision_host
from tests.scenes import SQUARES, finding, found_shares, squares

CLASSES = 6


@dataclass(frozen=True, eq=False)
class Stripes:
    """Noisy coloured stripes of six kinds; see `efface.data.pictures.LabelledPictures`."""

    names: tuple
    labels: torch.Tensor
    pixels: torch.Tensor

    @property
    def keys(self):
        return tuple(str(hash(one.numpy().tobytes()) & (2**64 - 1)) for one in self.pixels)

    @property
    def identity(self):
        return identity_of(self)

    def __len__(self):
        return len(self.labels)

    def read(self, which):
        return [self.pixels[place] for place in which]


def stripes(names, *, each=8, seed=0, side=16):
    """Draws so many pictures of every class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(each)
    colours = torch.eye(3).repeat(2, 1)[:CLASSES]
    wave = torch.arange(side).div(3, rounding_mode="floor").remainder(2).float()
    flat, turned = wave.expand(side, side), wave[:, None].expand(side, side)
    patterns = torch.stack([flat] * 3 + [turned] * 3)
    clean = colours[:, :, None, None] * patterns[:, None]
    noise = 0.3 * torch.rand((len(labels), 3, side, side), generator=generator)
    return Stripes(tuple(names), labels, (0.7 * clean[labels] + noise).clamp(0, 1))


@cache
def knowing(key="classifier", architecture=None):
    """A toy of a kind that recognises stripes; tests leave it as they found it."""
    if key == "detector":
        return finding(*([architecture] if architecture else []))
    model = _untaught(key, architecture)
    network, host = model.model, vision_host(model)
    pictures = stripes(model.labels)
    pixels = model.prepared(list(pictures.pixels))
    weights = [weight.requires_grad_() for weight in network.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        functional.cross_entropy(host.logits(pixels), pictures.labels).backward()
        optimiser.step()
    network.requires_grad_(requires_grad=False)
    assert accuracy(model, pictures) > 0.9
    return model


def fresh(key="classifier", architecture=None):
    """The same toy, to be changed."""
    known, model = knowing(key, architecture), _untaught(key, architecture)
    model.model.load_state_dict(known.model.state_dict())
    return model


def _untaught(key, architecture):
    (kind,) = (host for host in VISION_HOSTS if host.key == key)
    classes = SQUARES if key == "detector" else CLASSES
    return kind.toy(*([architecture] if architecture else []), classes=classes)


def examples(model, *, seed=0):
    """What a toy learnt from, or others like it: stripes, or scenes of squares for a detector.

    A toy detector knows its eight scenes and no others, so those come with every seed.
    """
    if vision_host(model).key == "detector":
        return squares(model.labels)
    return stripes(model.labels, seed=seed)


def accuracy(model, pictures, classes=None):
    """Share of pictures that get their own name, of some classes or of all.

    Of scenes, the mean over classes of the share of things that are found in their places.
    """
    if vision_host(model).key == "detector":
        shares = found_shares(vision_host(model), pictures)
        return sum(shares[n] for n in classes or range(SQUARES)) / len(classes or shares)
    with torch.no_grad():
        logits = vision_host(model).logits(model.prepared(list(pictures.pixels)))
    right = (logits.argmax(1) == pictures.labels).float()
    if classes is None:
        return float(right.mean())
    return float(right[torch.isin(pictures.labels, torch.tensor(classes))].mean())


def delta_of(model, changes, gone):
    """Makes a delta that adds tensors to some weights, as if it had erased a class."""
    patches = {key: DensePatch(value) for key, value in changes.items()}
    provenance = Provenance(
        method="gs_lora",
        revision=1,
        settings={},
        request=described(request(Concept(name=gone, kind="class"))),
        seed=0,
        base_model="toy",
        base_sketch=base_sketch(model, tuple(patches)),
        versions={},
        commit="",
        dirty=False,
    )
    return Delta(patches=patches, provenance=provenance)
