"""Operations that depend on the number of threads are found, and no others."""

import pytest
import torch
from benchmarks.threads import Twice, distances


def test_distances_are_relative_to_the_largest_value():
    one = (torch.tensor([1.0, -4.0]), [torch.zeros(2)], torch.tensor([3]))
    other = (torch.tensor([2.0, -4.0]), [torch.zeros(2)], torch.tensor([5]))
    assert list(distances(one, one)) == [0.0, 0.0]
    assert list(distances(one, other)) == [0.25, 0.0]


@pytest.fixture
def threads(monkeypatch):
    """What would be set, instead of setting it."""
    told = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    return told


def test_every_operation_is_done_with_two_threads_and_then_with_one(threads):
    weight = torch.tensor([[1.0, 2.0]], requires_grad=True)
    with Twice() as twice:
        (weight * 3.0).sum().backward()
    assert weight.grad.tolist() == [[3.0, 3.0]]
    assert threads == [2, 1] * sum(twice.calls.values())
    assert twice.calls["mul"] == 2  # forward and backward
    assert not any(twice.differing.values())


def test_what_differs_is_named_with_its_distance(threads):
    @torch.library.custom_op("efface_tests::threads", mutates_args=())
    def operation(x: torch.Tensor) -> torch.Tensor:
        return x + 0.5 * threads[-1]

    with Twice() as twice:
        found = operation(torch.tensor([1.0]))
    assert found.tolist() == [1.5]
    assert (twice.calls["threads"], twice.differing["threads"]) == (1, 1)
    assert twice.largest["threads"] == pytest.approx(0.5 / 1.5)
