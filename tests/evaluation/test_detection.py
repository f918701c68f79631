"""Average precision by hand, by its invariances, and against COCO's own counting."""

import math

import numpy as np
import pytest
import torch

from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation import detection
from efface.evaluation.detection import DetectedBoxes, TrueBoxes, overlaps, score_detections


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def truth(*rows):
    """Rows of (class, x, y, w, h)."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
    return TrueBoxes(table[:, 1:], table[:, 0].long())


def found(*rows):
    """Rows of (class, score, x, y, w, h)."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return DetectedBoxes(table[:, 2:], table[:, 1], table[:, 0].long())


def scenes(pictures=25, classes=4, seed=0):
    """Random scenes with detections near the boxes, doubles, wrong classes and strays."""
    generator = gen(seed)

    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    every = []
    for _ in range(pictures):
        count = int(torch.randint(0, 6, (1,), generator=generator))
        boxes = torch.cat([0.2 + 0.6 * rand(count, 2), 0.1 + 0.3 * rand(count, 2)], dim=1)
        classes_ = torch.randint(classes, (count,), generator=generator)
        near = torch.cat([boxes, boxes, 0.1 + 0.5 * rand(4, 4)])
        near = near + 0.06 * (rand(*near.shape) - 0.5)
        named = torch.cat([classes_, classes_, torch.randint(classes, (4,), generator=generator)])
        wrong = rand(len(named)) < 0.2
        named = torch.where(wrong, torch.randint(classes, named.shape, generator=generator), named)
        every.append((DetectedBoxes(near, rand(len(named)), named), TrueBoxes(boxes, classes_)))
    return [one for one, _ in every], [one for _, one in every]


def test_overlaps_by_hand():
    """Squares of side 2 whose centres are 1 apart share 2 of 6; apart, touching, empty: none."""
    first = torch.tensor([[0.0, 0, 2, 2], [0, 0, 0, 0]])
    second = torch.tensor([[1.0, 0, 2, 2], [0, 0, 2, 2], [2, 0, 2, 2], [0, 0, 0, 0]])
    assert overlaps(first, second)[0].tolist() == pytest.approx([1 / 3, 1, 0, 0])
    assert overlaps(first, second)[1].tolist() == [0, 0, 0, 0]


def test_a_case_worked_by_hand():
    """Two boxes of class 0. By score: hit, miss, hit. Precision 1, 1/2, 2/3; recall 1/2, 1/2, 1.

    Of 101 recalls 51 (0 to 0.5) have 1 and 50 have 2/3: (51 + 50 * 2 / 3) / 101 = 0.835.
    """
    scored = score_detections(
        [found((0, 0.9, 1, 1, 2, 2), (0, 0.8, 9, 9, 2, 2), (0, 0.7, 5, 5, 2, 2))],
        [truth((0, 1, 1, 2, 2), (0, 5, 5, 2, 2))],
        classes=1,
    )
    assert scored.ap50(0) == pytest.approx((51 + 100 / 3) / 101)
    assert scored.ap(0) == pytest.approx(scored.ap50(0))


def test_a_loose_box_counts_at_half_and_not_above():
    """A shift by a quarter of the side gives 0.6: three of the ten overlaps (0.5, 0.55, 0.6)."""
    scored = score_detections([found((0, 0.9, 1.5, 1, 2, 2))], [truth((0, 1, 1, 2, 2))], classes=1)
    assert scored.ap50(0) == 1
    assert scored.ap(0) == pytest.approx(0.3)


def test_a_box_is_found_once_and_of_its_class():
    true = [truth((0, 1, 1, 2, 2), (1, 5, 5, 2, 2))]
    twice = score_detections(
        [found((0, 0.9, 1, 1, 2, 2), (0, 0.8, 1, 1, 2, 2), (0, 0.7, 5, 5, 2, 2))], true, classes=2
    )
    assert twice.ap50(0) == 1  # the double comes after full recall
    assert twice.ap50(1) == 0
    early = score_detections([found((0, 0.8, 1, 1, 2, 2), (0, 0.9, 5, 5, 2, 2))], true, classes=2)
    assert early.ap50(0) == 0.5
    assert early.mean_ap50([0, 1]).value == 0.25
    assert early.mean_ap50([0, 1]).count == 2


def test_nothing_found_is_zero_and_nothing_there_is_no_number():
    scored = score_detections([found()], [truth((0, 1, 1, 2, 2))], classes=2)
    assert scored.ap50(0) == 0
    assert scored.truths(0) == 1
    with pytest.raises(MeasurementFailed, match="no picture shows class 1"):
        scored.ap50(1)
    with pytest.raises(MeasurementFailed, match="no picture shows class 1"):
        scored.mean_ap([0, 1])
    with pytest.raises(MeasurementFailed, match="no classes to average"):
        scored.mean_ap([])
    with pytest.raises(BadRequest, match="class 7 was not scored"):
        scored.ap(7)


def test_order_of_pictures_and_boxes_does_not_matter():
    detected, true = scenes()
    first = score_detections(detected, true, classes=4)
    turned = [
        DetectedBoxes(one.boxes.flip(0), one.scores.flip(0), one.classes.flip(0))
        for one in reversed(detected)
    ]
    second = score_detections(turned, true[::-1], classes=4)
    assert [second.ap(one) for one in range(4)] == pytest.approx([first.ap(n) for n in range(4)])
    assert 0.1 < first.mean_ap(range(4)).value < first.mean_ap50(range(4)).value < 1


def test_the_interval_holds_the_value_and_repeats():
    detected, true = scenes()
    scored = score_detections(detected, true, classes=4)
    assert math.isnan(scored.mean_ap50([0]).low)
    one = scored.mean_ap50([0, 1], gen(4))
    assert one.low < one.value < one.high
    assert scored.mean_ap50([0, 1], gen(4)) == one


def test_a_picture_that_counts_twice_is_as_if_it_were_there_twice():
    detected, true = scenes()
    scored = score_detections(detected, true, classes=4)
    doubled = score_detections([*detected, *detected[:5]], [*true, *true[:5]], classes=4)
    times = np.array([2] * 5 + [1] * 20)
    for number in range(4):
        found = detection._average_precision(scored.found[number], times, slice(None))
        assert found.mean() == pytest.approx(doubled.ap(number))


def test_what_does_not_fit_is_refused():
    with pytest.raises(BadRequest, match="1 pictures were detected in and 0"):
        score_detections([found()], [], classes=1)
    with pytest.raises(MeasurementFailed, match="no picture"):
        score_detections([], [], classes=1)
    with pytest.raises(BadRequest, match="classes 3 to 3, but there are 2"):
        score_detections([found()], [truth((3, 1, 1, 2, 2))], classes=2)
    with pytest.raises(BadRequest, match=r"give \(n, 4\)"):
        TrueBoxes(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(BadRequest, match="negative sizes"):
        truth((0, 1, 1, -2, 2))
    with pytest.raises(MeasurementFailed, match="boxes are not finite"):
        truth((0, 1, math.nan, 2, 2))
    with pytest.raises(MeasurementFailed, match="scores of detections are not finite"):
        found((0, math.nan, 1, 1, 2, 2))
    with pytest.raises(BadRequest, match="1 boxes have 2 scores"):
        DetectedBoxes(torch.ones(1, 4), torch.ones(2), torch.zeros(1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_counting_is_that_of_coco(seed):
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    detected, true = scenes(40, seed=seed)

    def corners(boxes):
        return torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], dim=1).tolist()

    boxes = [
        {"image_id": n, "category_id": int(c), "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for n, one in enumerate(true)
        for c, b in zip(one.classes, corners(one.boxes), strict=True)
    ]
    held = coco.COCO()
    held.dataset = {
        "images": [{"id": n} for n in range(len(true))],
        "categories": [{"id": n} for n in range(4)],
        "annotations": [{**one, "id": n + 1} for n, one in enumerate(boxes)],
    }
    held.createIndex()
    results = held.loadRes(
        [
            {"image_id": n, "category_id": int(c), "bbox": b, "score": float(s)}
            for n, one in enumerate(detected)
            for c, b, s in zip(one.classes, corners(one.boxes), one.scores, strict=True)
        ]
    )
    run = evaluation.COCOeval(held, results, "bbox")
    run.evaluate()
    run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, -1]  # overlaps, recalls, classes
    scored = score_detections(detected, true, classes=4)
    for number in range(4):
        assert scored.ap(number) == pytest.approx(precision[:, :, number].mean(), abs=1e-9)
        assert scored.ap50(number) == pytest.approx(precision[0, :, number].mean(), abs=1e-9)
