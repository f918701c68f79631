"""The most changed rows and weights are found, and all of them put back is the base."""

import pytest
import torch

from efface.attacks.cut_location import CutLocation
from efface.errors import BadRequest
from efface.revival.changes import touched
from tests.attacks.toys import course, drawn, erasure, left_as_found, target_of


@pytest.mark.thorough
@pytest.mark.parametrize("unit", ["rows", "weights"])
def test_all_put_back_draws_as_the_base(tiny_sd1, unit):
    target = target_of(tiny_sd1, erasure(tiny_sd1, "esd"))
    with left_as_found(tiny_sd1):
        (attempts,) = course(CutLocation(unit=unit, shares=(1.0,)), target)
        found = drawn(target, attempts)
    base = target_of(tiny_sd1, None)
    assert torch.equal(found, drawn(base, course(CutLocation(shares=(1.0,)), base)[0]))


@pytest.mark.thorough
def test_a_tenth_of_the_rows_is_put_back_and_they_are_the_most_changed(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1, "esd"))
    (attempts,) = course(CutLocation(shares=(0.1,)), target)
    with target.edited():
        held = touched(target)
    back, stays = [], []
    for key, weight in held.items():
        if weight.base.ndim < 2:
            continue
        size = weight.whole.flatten(1).norm(dim=1) / weight.base.flatten(1).norm(dim=1)
        patch = attempts[0].added.get(key)
        moved = torch.zeros_like(size) if patch is None else patch.difference.flatten(1).norm(dim=1)
        back += size[moved > 0].tolist()
        stays += size[moved == 0].tolist()
    assert 0 < len(back) < 0.15 * len(stays)
    assert min(back) >= max(stays)


def test_none_put_back_changes_nothing(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1))
    (attempts,) = course(CutLocation(shares=(0.0,)), target)
    assert not attempts[0].added
    assert not attempts[0].without


@pytest.mark.parametrize("shares", [(), (1.5,)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(BadRequest, match="shares is"):
        CutLocation(shares=shares)
