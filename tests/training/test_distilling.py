"""Distances between two classifiers' answers, by hand."""

import math

import pytest
import torch

from efface.training.distilling import answers_apart, mixed


def test_it_is_the_divergence_of_the_teacher_from_the_student():
    """(3/4, 1/4) against (1/2, 1/2), and the same twice over at half the temperature."""
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    student = torch.zeros(1, 2)
    wanted = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(answers_apart(teacher, student)) == pytest.approx(wanted, abs=1e-6)
    warm = answers_apart(2 * teacher, 2 * student, temperature=2.0)
    assert float(warm) == pytest.approx(wanted, abs=1e-6)
    assert float(answers_apart(teacher, teacher)) == 0


def test_classes_that_are_left_out_do_not_count():
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(5, 4, generator=generator) for _ in range(2))
    other = student.clone()
    other[:, 2] += 7
    first, second = (answers_apart(teacher, one, without=[2]) for one in (student, other))
    assert float(first) == float(second) > 0
    assert float(answers_apart(teacher, other)) != pytest.approx(float(first))


def test_mixtures_lie_between_two_pictures_and_depend_on_the_generator():
    pixels = torch.eye(6)[:, None, :, None]
    found, again, other = (mixed(pixels, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(found, again)
    assert not torch.equal(found, other)
    torch.testing.assert_close(found.sum((1, 2, 3)), torch.ones(6))
    assert (found >= 0).all()
    assert ((found > 0).sum((1, 2, 3)) == 2).any()
