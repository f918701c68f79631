"""Toy scenes, coloured squares on grey, and toy detectors that learnt to find them."""

from dataclasses import dataclass
from functools import cache, cached_property

import torch

from efface.data.scenes import Annotated, Scene, scene_identity
from efface.hosts.boxes import overlaps
from efface.hosts.detector import Detector

SQUARES = 3
SIDE = 32


@dataclass(frozen=True, eq=False)
class Squares:
    """Red, green and blue squares, one or two a picture; see `efface.data.scenes.ScenePictures`."""

    names: tuple
    pixels: torch.Tensor
    things: tuple

    @cached_property
    def keys(self):
        return tuple(str(hash(one.numpy().tobytes()) & (2**64 - 1)) for one in self.pixels)

    @property
    def identity(self):
        return scene_identity(self)

    def __len__(self):
        return len(self.things)

    def scenes(self, which):
        return [Scene(self.pixels[place], *self.things[place]) for place in which]


def squares(names, *, count=8, seed=0):
    """Draws scenes whose left and right half may hold a square of some colour."""
    generator = torch.Generator().manual_seed(seed)
    pixels = 0.4 + 0.1 * torch.rand(count, 3, SIDE, SIDE, generator=generator)
    things = []
    for picture in pixels:
        boxes, classes = [], []
        halves = torch.randperm(2, generator=generator)[: 1 + len(things) % 2].tolist()
        for half in halves:
            colour = int(torch.randint(SQUARES, (), generator=generator))
            top, left = torch.randint(0, 17, (2,), generator=generator).tolist()
            left = SIDE // 2 * half + left // 4
            picture[:, top : top + 12, left : left + 12] = torch.eye(3)[colour][:, None, None]
            boxes.append([(left + 6) / SIDE, (top + 6) / SIDE, 12 / SIDE, 12 / SIDE])
            classes.append(colour)
        things.append(Annotated(torch.tensor(boxes), torch.tensor(classes)))
    return Squares(tuple(names), pixels, tuple(things))


@cache
def finding(architecture="YolosForObjectDetection", steps=150):
    """A toy detector that finds squares it was trained on; tests leave it as they found it."""
    model = Detector.toy(architecture, classes=SQUARES)
    host, pictures = Detector(model), squares(model.labels)
    pixels = model.prepared(list(pictures.pixels))
    weights = [weight.requires_grad_() for weight in model.model.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    for _ in range(steps):
        loss = host.losses(host.detect(pixels), pictures.things).total
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
    model.model.requires_grad_(requires_grad=False)
    return model


@torch.no_grad()
def found_shares(host, pictures):
    """Gives by class the share of things that are found in their places, surer than a half."""
    answer = host.detect(host.model.prepared(list(pictures.pixels)))
    hits, counts = [0] * SQUARES, [0] * SQUARES
    for found, each in zip(host.found(answer, floor=0.5), pictures.things, strict=True):
        for box, number in zip(each.boxes, each.classes.tolist(), strict=True):
            same = (overlaps(found.boxes, box[None])[:, 0] > 0.5) & (found.classes == number)
            hits[number] += bool(same.any())
            counts[number] += 1
    return [hit / count for hit, count in zip(hits, counts, strict=True)]
