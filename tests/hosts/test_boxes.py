"""Boxes: hand-computed overlaps, and the two ways of writing one."""

import pytest
import torch

from efface.hosts.boxes import as_corners, as_sizes, generalised_overlaps, overlaps

WHOLE = [0.5, 0.5, 1.0, 1.0]
LEFT = [0.25, 0.5, 0.5, 1.0]
RIGHT_STRIP = [0.875, 0.5, 0.25, 1.0]


def boxes(*rows):
    return torch.tensor(rows)


def test_overlaps_by_hand():
    """The left half is half of the whole; it and the right quarter have nothing in common."""
    found = overlaps(boxes(LEFT, WHOLE), boxes(WHOLE, RIGHT_STRIP, LEFT))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.0, 1.0], [1.0, 0.25, 0.5]]))


def test_generalised_overlaps_count_the_gap():
    """Around both is the whole, a quarter of it empty: 0 - 1/4."""
    assert generalised_overlaps(boxes(LEFT), boxes(RIGHT_STRIP)).item() == pytest.approx(-0.25)
    assert generalised_overlaps(boxes(LEFT), boxes(WHOLE)).item() == pytest.approx(0.5)


def test_empty_boxes_overlap_by_nothing_and_give_no_nan():
    empty = boxes([0.5, 0.5, 0.0, 0.0])
    assert overlaps(empty, empty).item() == 0
    assert generalised_overlaps(empty, empty).isfinite().all()
    assert overlaps(torch.zeros(0, 4), boxes(WHOLE)).shape == (0, 1)


def test_corners_and_back():
    drawn = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(as_sizes(as_corners(drawn)), drawn)
    assert as_corners(boxes(LEFT)).tolist() == [[0.0, 0.0, 0.5, 1.0]]
