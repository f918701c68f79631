"""Which query of a detector stands for which thing in a scene, and the losses that follow.

The assignment is the cheapest one-to-one (DETR, arXiv 2005.12872, equation 1). There are two ways
of naming: *softmax* over all classes and "no object" (DETR, YOLOS), and a *sigmoid* for each class
(Deformable DETR, arXiv 2010.04159; RT-DETR, arXiv 2304.08069).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from efface.errors import BadRequest, MeasurementFailed
from efface.hosts.boxes import generalised_overlaps, overlaps

__all__ = [
    "DetectionLoss",
    "DetectionTerms",
    "Detections",
    "Matched",
    "Things",
    "assign",
    "checked_scenes",
    "class_loss",
    "naming_losses",
    "place_loss",
    "probabilities",
]

_LOG_FLOOR = 1e-8
_SAME_PLACE = 0.5
"""Overlap from which a query speaks of a thing that is left out of account."""


class Things(Protocol):
    """What is in a scene: one box and one class for each thing."""

    @property
    def boxes(self) -> Float[Tensor, "m 4"]:
        """Centre and size as shares of the picture."""

    @property
    def classes(self) -> Int[Tensor, " m"]:
        """Numbers as the model's head has them."""


class Detections(NamedTuple):
    """What a detector says of pictures, one row a query."""

    logits: Float[Tensor, "n q c"]
    """Of the classes by number; last, where the model has it, "no object"."""
    boxes: Float[Tensor, "n q 4"]
    """Centre and size as shares of the picture."""
    features: Float[Tensor, "n q dim"]
    """What the head reads."""


class Matched(NamedTuple):
    """Queries with the things they stand for, of one picture, in the order of the things."""

    queries: Int[Tensor, " m"]
    things: Int[Tensor, " m"]


class DetectionLoss(NamedTuple):
    """The two parts of a detector's loss, each with the weight it has in the model's training."""

    classes: Float[Tensor, ""]
    boxes: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Adds both."""
        return self.classes + self.boxes


@dataclass(frozen=True)
class DetectionTerms:
    """How one class of detectors names things, and the weights of its costs and losses."""

    naming: Literal["softmax", "focal", "varifocal"]
    class_cost: float
    corner_cost: float
    """Of the distance of centre and size (L1), in assignments."""
    overlap_cost: float
    """Of the generalised overlap, in assignments."""
    corner_weight: float
    overlap_weight: float
    class_weight: float = 1.0
    nothing_weight: float = 0.1
    """Of queries without a thing, where there is a "no object" (softmax)."""
    alpha: float = 0.25
    """Focal loss: share of the true class, against all others (sigmoid)."""
    gamma: float = 2.0
    """Focal loss: power by which sure answers count less (sigmoid)."""
    cost_alpha: float = 0.25
    cost_gamma: float = 2.0
    """The same two in assignments (sigmoid)."""


def probabilities(
    logits: Float[Tensor, "*n c"], terms: DetectionTerms
) -> Float[Tensor, "*n classes"]:
    """Gives the probability of each class, "no object" left out."""
    return logits.softmax(dim=-1)[..., :-1] if terms.naming == "softmax" else logits.sigmoid()


def checked_scenes(scenes: Sequence[Things], pictures: int, classes: int) -> None:
    """Refuses scenes that cannot be what a detector is shown.

    Raises:
        BadRequest: not one for each picture, a class that the head does not have, a box of no
            size, or as many classes as boxes are not there.
    """
    if len(scenes) != pictures:
        raise BadRequest(f"{pictures} pictures came with {len(scenes)} scenes; give one for each")
    for scene in scenes:
        if scene.boxes.shape != (len(scene.classes), 4):
            raise BadRequest(
                f"a scene has boxes of shape {tuple(scene.boxes.shape)} and {len(scene.classes)} "
                "classes; give four numbers and one class for each thing"
            )
        if not len(scene.classes):
            continue
        lowest, highest = int(scene.classes.min()), int(scene.classes.max())
        if lowest < 0 or highest >= classes:
            odd = lowest if lowest < 0 else highest
            raise BadRequest(
                f"a scene has class {odd}, and the model's head has classes 0 to {classes - 1}; "
                "number the scenes as the head is"
            )
        if not bool(scene.boxes.isfinite().all() & (scene.boxes[:, 2:] > 0).all()):
            raise BadRequest(
                "a scene has a box without width or height; boxes are centre x, centre y, width "
                "and height as shares of the picture"
            )


@torch.no_grad()
def assign(
    detections: Detections, scenes: Sequence[Things], terms: DetectionTerms
) -> list[Matched]:
    """Assigns a query to each thing so that the sum of costs is smallest.

    The cost of a pair is that of its class, of the distance of its box, and of its overlap. Where a
    scene has more things than there are queries, the costliest are left out.

    Raises:
        MeasurementFailed: the detector's answers are not finite.
    """
    from scipy.optimize import linear_sum_assignment

    found = []
    for logits, boxes, scene in zip(detections.logits, detections.boxes, scenes, strict=True):
        cost = _costs(logits.float(), boxes.float(), scene, terms)
        if not bool(cost.isfinite().all()):
            raise MeasurementFailed(
                "the detector's answers are not finite, so nothing can be matched; "
                "its weights are broken, or an edit of them was too strong"
            )
        queries, things = linear_sum_assignment(cost.cpu().double().numpy())
        order = things.argsort()
        pair = (torch.as_tensor(each[order], device=boxes.device) for each in (queries, things))
        found.append(Matched(*pair))
    return found


def _costs(
    logits: Float[Tensor, "q c"], boxes: Float[Tensor, "q 4"], scene: Things, terms: DetectionTerms
) -> Float[Tensor, "q m"]:
    wanted = scene.boxes.to(boxes)
    chances = probabilities(logits, terms)[:, scene.classes.to(logits.device)]
    if terms.naming == "softmax":
        naming = -chances
    else:
        alpha, gamma = terms.cost_alpha, terms.cost_gamma
        named = alpha * (1 - chances) ** gamma * -(chances + _LOG_FLOOR).log()
        unnamed = (1 - alpha) * chances**gamma * -(1 - chances + _LOG_FLOOR).log()
        naming = named - unnamed
    return (
        terms.class_cost * naming
        + terms.corner_cost * torch.cdist(boxes, wanted, p=1)
        - terms.overlap_cost * generalised_overlaps(boxes, wanted)
    )


def naming_losses(
    detections: Detections,
    scenes: Sequence[Things],
    matched: Sequence[Matched],
    terms: DetectionTerms,
) -> Float[Tensor, " things"]:
    """Gives minus the log probability of each matched thing's class at its query."""
    parts = []
    for logits, scene, pair in zip(detections.logits, scenes, matched, strict=True):
        rows = logits[pair.queries]
        classes = scene.classes.to(rows.device)[pair.things]
        logs = rows.log_softmax(-1) if terms.naming == "softmax" else functional.logsigmoid(rows)
        parts.append(-logs[torch.arange(len(classes), device=rows.device), classes])
    return torch.cat(parts)


def class_loss(
    detections: Detections,
    scenes: Sequence[Things],
    matched: Sequence[Matched],
    terms: DetectionTerms,
    ignored: Collection[int] = (),
) -> Float[Tensor, ""]:
    """Gives the loss of naming in training: a matched query its class, all others none.

    Args:
        detections: of the pictures.
        scenes: what is in them.
        matched: by `assign`.
        terms: of the detector.
        ignored: classes whose things are left out of account: queries that are matched to one, or
            overlap one by half and are matched to nothing, have no loss, so that their places are
            not learnt as empty.
    """
    wanted = _wanted(detections, scenes, matched, ignored)
    if terms.naming == "softmax":
        return terms.class_weight * _softmax_loss(detections.logits, wanted, terms)
    losses = _sigmoid_losses(detections.logits, wanted, terms) * wanted.counted[..., None]
    return terms.class_weight * losses.sum() / max(1, wanted.things)


class _Wanted(NamedTuple):
    """What each query should say."""

    named: Int[Tensor, "n q"]
    """Its class, -1 for none."""
    overlap: Float[Tensor, "n q"]
    """Of its box with that of its thing; 0 without one."""
    counted: Bool[Tensor, "n q"]
    """Whether it has a loss."""
    things: int
    """How many things count."""


def _wanted(
    detections: Detections,
    scenes: Sequence[Things],
    matched: Sequence[Matched],
    ignored: Collection[int],
) -> _Wanted:
    boxes = detections.boxes.detach()
    named = torch.full(boxes.shape[:2], -1, dtype=torch.long, device=boxes.device)
    overlap = torch.zeros_like(boxes[..., 0])
    counted = torch.ones_like(named, dtype=torch.bool)
    things = 0
    for row, (scene, pair) in enumerate(zip(scenes, matched, strict=True)):
        classes, places = scene.classes.to(boxes.device), scene.boxes.to(boxes)
        unseen = _among(classes, ignored)
        counted[row] = ~_speaks_of(boxes[row], places[unseen])
        counted[row, pair.queries] = ~unseen[pair.things]
        named[row, pair.queries] = classes[pair.things]
        pairwise = overlaps(boxes[row, pair.queries], places[pair.things])
        overlap[row, pair.queries] = pairwise.diagonal()
        things += int((~unseen).sum())
    return _Wanted(named, overlap, counted, things)


def _among(classes: Int[Tensor, " m"], numbers: Collection[int]) -> Bool[Tensor, " m"]:
    return torch.isin(classes, torch.tensor(sorted(numbers)).to(classes))


def _speaks_of(boxes: Float[Tensor, "q 4"], things: Float[Tensor, "m 4"]) -> Bool[Tensor, " q"]:
    if not len(things):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    return overlaps(boxes, things).max(dim=1).values >= _SAME_PLACE


def _softmax_loss(
    logits: Float[Tensor, "n q c"], wanted: _Wanted, terms: DetectionTerms
) -> Float[Tensor, ""]:
    """Gives the mean cross-entropy, "no object" weighted less."""
    nothing = logits.shape[-1] - 1
    named = wanted.named.where(wanted.named >= 0, nothing)
    losses = functional.cross_entropy(logits.flatten(0, 1), named.flatten(), reduction="none")
    weights = torch.where(named == nothing, terms.nothing_weight, 1.0).to(losses) * wanted.counted
    return (losses * weights.flatten()).sum() / weights.sum().clamp_min(terms.nothing_weight)


def _sigmoid_losses(
    logits: Float[Tensor, "n q c"], wanted: _Wanted, terms: DetectionTerms
) -> Float[Tensor, "n q c"]:
    """Gives the focal loss of each query and class, or RT-DETR's, whose targets are overlaps."""
    true = functional.one_hot(wanted.named + 1, logits.shape[-1] + 1)[..., 1:].to(logits)
    chances = logits.sigmoid()
    if terms.naming == "varifocal":
        target = true * wanted.overlap[..., None]
        rest = terms.alpha * chances.detach() ** terms.gamma * (1 - true)
        weight = rest + target
    else:
        target = true
        missed = chances * (1 - true) + (1 - chances) * true
        weight = (terms.alpha * true + (1 - terms.alpha) * (1 - true)) * missed**terms.gamma
    losses = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return losses * weight


def place_loss(
    detections: Detections,
    scenes: Sequence[Things],
    matched: Sequence[Matched],
    terms: DetectionTerms,
    ignored: Collection[int] = (),
) -> Float[Tensor, ""]:
    """Gives the loss of places, L1 and generalised overlap, as a mean over things.

    Args:
        detections: of the pictures.
        scenes: what is in them.
        matched: by `assign`.
        terms: of the detector.
        ignored: classes whose things do not count.
    """
    found, wanted, things = [], [], 0
    for boxes, scene, pair in zip(detections.boxes, scenes, matched, strict=True):
        seen = ~_among(scene.classes.to(boxes.device), ignored)
        keep = seen[pair.things]
        found.append(boxes[pair.queries[keep]])
        wanted.append(scene.boxes.to(boxes)[pair.things[keep]])
        things += int(seen.sum())
    one, two = torch.cat(found), torch.cat(wanted)
    distance = (one - two).abs().sum()
    apart = (1 - generalised_overlaps(one, two).diagonal()).sum()
    return (terms.corner_weight * distance + terms.overlap_weight * apart) / max(1, things)
