"""Masks, projections and null spaces do what their papers say."""

import pytest
import torch

from efface.errors import BadRequest
from efface.training.gradients import (
    intersected,
    orthonormal_rows,
    projected_away,
    saliency_masks,
    without_directions,
)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


GRADIENTS = {"a": drawn(3, 5), "b": 100 * drawn(7, seed=1)}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.77])
def test_a_mask_marks_exactly_the_largest_of_all(share):
    marks = saliency_masks(GRADIENTS, share)
    sizes = torch.cat([GRADIENTS[key].abs().flatten() for key in GRADIENTS])
    flat = torch.cat([marks[key].flatten() for key in GRADIENTS])
    assert int(flat.sum()) == int(share * len(sizes))
    assert sizes[flat].min() >= sizes[~flat].max()


def test_a_mask_per_tensor_marks_its_share_of_each():
    marks = saliency_masks(GRADIENTS, 0.5, scope="tensor")
    assert int(marks["a"].sum()) == 7
    assert int(marks["b"].sum()) == 3
    assert int(saliency_masks(GRADIENTS, 0.5)["a"].sum()) < 7


def test_masks_are_nested_and_ignore_sign_and_scale():
    small, large = (saliency_masks(GRADIENTS, share) for share in (0.3, 0.6))
    assert all(bool((large[key] | ~small[key]).all()) for key in GRADIENTS)
    turned = saliency_masks({key: -3 * value for key, value in GRADIENTS.items()}, 0.3)
    assert all(torch.equal(turned[key], small[key]) for key in GRADIENTS)


def test_masks_of_nothing_are_refused():
    with pytest.raises(BadRequest, match="all zero"):
        saliency_masks({"a": torch.zeros(3)}, 0.5)
    with pytest.raises(BadRequest, match="marks no weight"):
        saliency_masks({"a": torch.ones(3)}, 0.1)


def test_what_every_mask_marks_is_left():
    """By hand: 1100 and 0110 share one mark, and with 1111 still that one."""
    one, other, all_of_them = (
        {"w": torch.tensor(marks, dtype=torch.bool)}
        for marks in ([1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1])
    )
    assert intersected([one, other])["w"].tolist() == [False, True, False, False]
    assert intersected(iter([one, other, all_of_them]))["w"].tolist() == [False, True, False, False]
    assert torch.equal(intersected([one, one])["w"], one["w"])
    with pytest.raises(BadRequest, match="no weight is in all 2 maps"):
        intersected([one, {"w": ~one["w"]}])


def flat(parts):
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("each", [False, True])
def test_projection_removes_conflict_and_nothing_else(each):
    conflicts = 0
    for seed in range(6):
        own = [drawn(3, 4, seed=seed), drawn(5, seed=seed + 50)]
        against = [drawn(3, 4, seed=seed + 100), drawn(5, seed=seed + 150)]
        kept, cosine = projected_away(own, against, each=each)
        inner = float(flat(own) @ flat(against))
        assert cosine == pytest.approx(
            inner / float(flat(own).norm() * flat(against).norm()), abs=1e-12
        )
        if not each and inner >= 0:
            assert all(torch.equal(a, b) for a, b in zip(kept, own, strict=True))
        conflicts += inner < 0
        assert float(flat(kept) @ flat(against)) >= -1e-12
        assert flat(kept).norm() <= flat(own).norm() + 1e-12
        again, _ = projected_away(kept, against, each=each)
        assert all(torch.allclose(a, b) for a, b in zip(again, kept, strict=True))
        scaled, _ = projected_away(own, [3 * part for part in against], each=each)
        assert all(torch.allclose(a, b) for a, b in zip(scaled, kept, strict=True))
    assert 0 < conflicts < 6


def test_projection_against_nothing_changes_nothing():
    own = [drawn(4)]
    kept, _ = projected_away(own, [torch.zeros(4, dtype=torch.float64)])
    assert torch.equal(kept[0], own[0])


def test_a_change_without_directions_leaves_their_inputs_alone():
    rows, change = drawn(6, 20), drawn(9, 20, seed=1)
    basis = orthonormal_rows(rows)
    assert basis.shape == (6, 20)
    bent = without_directions(change, basis)
    assert (rows @ bent.T).abs().max() < 1e-12
    other = drawn(2, 20, seed=2)
    assert (other @ bent.T).abs().max() > 0.1


def test_a_truncated_basis_holds_the_energy_it_is_asked_for():
    rows = drawn(6, 20) * torch.tensor([10.0, 5.0, 1.0, 0.1, 0.1, 0.1]).double()[:, None]
    few = orthonormal_rows(rows, energy=0.9)
    assert 0 < len(few) < 6
    held = float((rows @ few.T).norm() ** 2 / rows.norm() ** 2)
    assert held >= 0.9
