"""Matching queries with things by hand, and losses beside those that transformers trains with."""

import math
from typing import NamedTuple

import pytest
import torch
from transformers.loss.loss_deformable_detr import DeformableDetrForObjectDetectionLoss
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss
from transformers.loss.loss_rt_detr import RTDetrLoss

from efface.errors import BadRequest, MeasurementFailed
from efface.hosts.detector import Detector
from efface.hosts.matching import Detections, DetectionTerms, assign, class_loss, place_loss

BY_PLACE = DetectionTerms("softmax", 1.0, 1.0, 0.0, 5.0, 2.0)
ARCHITECTURES = tuple(Detector.heads)


class Things(NamedTuple):
    boxes: torch.Tensor
    classes: torch.Tensor


def at(*centres, classes=None):
    boxes = torch.tensor([[x, 0.5, 0.1, 0.1] for x in centres]).reshape(-1, 4)
    return Things(boxes, torch.tensor(classes or [0] * len(centres), dtype=torch.long))


def answers(centres, logits=None):
    """Detections of one picture with queries at these places, all classes alike if not told."""
    boxes = at(*centres).boxes
    given = torch.zeros(len(boxes), 3) if logits is None else torch.tensor(logits)
    return Detections(given[None], boxes[None], torch.zeros(1, len(boxes), 2))


def drawn(seed, pictures=3, queries=8, classes=6, things=(2, 0, 3)):
    generator = torch.Generator().manual_seed(seed)
    columns = classes + 1

    def boxes(*shape):
        return 0.3 + 0.4 * torch.rand(*shape, 4, generator=generator)

    found = Detections(
        2 * torch.randn(pictures, queries, columns, generator=generator),
        boxes(pictures, queries),
        torch.zeros(pictures, queries, 2),
    )
    scenes = [
        Things(boxes(count), torch.randint(classes, (count,), generator=generator))
        for count in things
    ]
    return found, scenes


def test_the_sum_of_costs_is_smallest_where_the_nearest_first_is_not():
    """Nearest first: 0.1 + 0.7; the other way round 0.3 + 0.3."""
    (pair,) = assign(answers([0.5, 0.1]), [at(0.4, 0.8)], BY_PLACE)
    assert (pair.queries.tolist(), pair.things.tolist()) == ([1, 0], [0, 1])


def test_the_class_decides_between_two_queries_in_one_place():
    logits = [[0.0, 4.0, 0.0], [4.0, 0.0, 0.0]]
    (pair,) = assign(answers([0.5, 0.5], logits), [at(0.5, classes=[0])], BY_PLACE)
    assert pair.queries.tolist() == [1]


def test_scenes_may_be_empty_or_fuller_than_the_queries():
    (none,) = assign(answers([0.5, 0.1]), [at()], BY_PLACE)
    (full,) = assign(answers([0.5, 0.1]), [at(0.1, 0.5, 0.9)], BY_PLACE)
    assert len(none.queries) == 0
    assert (full.queries.tolist(), full.things.tolist()) == ([1, 0], [0, 1])


def test_answers_that_are_not_finite_are_not_matched():
    with pytest.raises(MeasurementFailed, match="not finite, so nothing can be matched"):
        assign(answers([math.nan, 0.1]), [at(0.1)], BY_PLACE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_are_those_that_transformers_trains_with(architecture):
    host = Detector(Detector.toy(architecture))
    found, scenes = drawn(3)
    softmax = host.terms.naming == "softmax"
    found = found if softmax else found._replace(logits=found.logits[..., :-1])
    loss = host.losses(found, scenes)
    named, placed = transformers_loss(host, architecture, found, scenes)
    torch.testing.assert_close(loss.classes, named)
    torch.testing.assert_close(loss.boxes, placed)
    torch.testing.assert_close(loss.total, named + placed)


def transformers_loss(host, architecture, found, scenes):
    config, logits, boxes = host.model.config, found.logits, found.boxes
    labels = [{"class_labels": each.classes, "boxes": each.boxes} for each in scenes]
    if architecture == "RTDetrForObjectDetection":
        parts = RTDetrLoss(config)({"logits": logits, "pred_boxes": boxes}, labels)
        return parts["loss_vfl"], parts["loss_bbox"] + parts["loss_giou"]
    deformable = architecture == "DeformableDetrForObjectDetection"
    criterion = DeformableDetrForObjectDetectionLoss if deformable else ForObjectDetectionLoss
    _, parts, _ = criterion(logits, labels, "cpu", boxes, config)
    placed = config.bbox_loss_coefficient * parts["loss_bbox"]
    return parts["loss_ce"], placed + config.giou_loss_coefficient * parts["loss_giou"]


@pytest.mark.parametrize("naming", ["softmax", "focal", "varifocal"])
def test_places_of_ignored_things_are_not_learnt_as_empty(naming):
    """Of four queries, one stands for an ignored thing and one overlaps it: no gradient."""
    terms = DetectionTerms(naming, 1.0, 5.0, 2.0, 5.0, 2.0)
    found = answers([0.2, 0.21, 0.6, 0.9])
    logits = found.logits.requires_grad_()
    boxes = found.boxes.requires_grad_()
    scene = [at(0.2, 0.6, classes=[1, 0])]
    matched = assign(found, scene, terms)
    loss = class_loss(found, scene, matched, terms, ignored={1})
    (by_class,) = torch.autograd.grad(loss, logits)
    (by_place,) = torch.autograd.grad(place_loss(found, scene, matched, terms, {1}), boxes)
    assert (by_class[0].abs().sum(-1) > 0).tolist() == [False, False, True, True]
    assert not by_place[0, [0, 1, 3]].any()
    (all_learnt,) = torch.autograd.grad(class_loss(found, scene, matched, terms), logits)
    assert (all_learnt[0].abs().sum(-1) > 0).all()


def test_scenes_of_nothing_but_ignored_things_have_a_finite_loss():
    found = answers([0.2])
    matched = assign(found, [at(0.2)], BY_PLACE)
    assert class_loss(found, [at(0.2)], matched, BY_PLACE, {0}).item() == 0
    assert place_loss(found, [at(0.2)], matched, BY_PLACE, {0}).item() == 0


def test_naming_losses_are_log_probabilities_of_the_matched_class():
    """Softmax of (2, 0, 0) gives e^2 / (e^2 + 2); the sigmoid of 0 is a half."""
    host = Detector(Detector.toy(classes=2))
    found = answers([0.1, 0.5], [[2.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    scene = [at(0.1, classes=[0])]
    loss = host.naming_losses(found, scene, host.match(found, scene))
    assert loss.tolist() == pytest.approx([-math.log(math.exp(2) / (math.exp(2) + 2))])
    assert host.largest_loss() == pytest.approx(math.log(3))
    sigmoid = Detector(Detector.toy("DeformableDetrForObjectDetection", classes=3))
    loss = sigmoid.naming_losses(answers([0.1]), scene, sigmoid.match(answers([0.1]), scene))
    assert loss.tolist() == pytest.approx([math.log(2)])
    assert sigmoid.largest_loss() == pytest.approx(math.log(100))


def test_scenes_that_cannot_be_are_refused():
    host = Detector(Detector.toy(classes=2))
    found = answers([0.1, 0.5])
    with pytest.raises(BadRequest, match="1 pictures came with 2 scenes; give one for each"):
        host.match(found, [at(0.1), at(0.2)])
    with pytest.raises(BadRequest, match="a scene has class 2, and the model's head has classes 0"):
        host.match(found, [at(0.1, classes=[2])])
    with pytest.raises(BadRequest, match="a scene has class -1"):
        host.match(found, [at(0.1, classes=[-1])])
    with pytest.raises(BadRequest, match="a box without width or height"):
        host.match(found, [Things(torch.tensor([[0.1, 0.1, 0.0, 0.1]]), torch.tensor([0]))])
    with pytest.raises(BadRequest, match=r"boxes of shape \(1, 4\) and 2 classes"):
        host.match(found, [Things(at(0.1).boxes, torch.tensor([0, 1]))])
