"""Points around a row: they lie in the shell, and their moments are those of many draws."""

import pytest
import torch

from efface.closed_form.neighbours import Shell, moments, sampled
from efface.errors import BadRequest
from efface.hosts.embedding import Embedder
from efface.text.mining import nearest_words

WIDTH = 24


def drawn(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "shell", [Shell(0.9, 1.0, 0.45), Shell(0.5, 0.95, 0.4), Shell(0.5, 0.85), Shell(0.7, 0.8, 1.5)]
)
def test_points_keep_the_cosines_and_the_distance(shell):
    rows = 20 * drawn(1, 3, WIDTH)
    points = sampled(rows, shell, 200, generator())
    around = rows.repeat_interleave(200, dim=0)
    cosine = torch.cosine_similarity(points, around)
    assert float(cosine.min()) >= shell.low - 1e-9
    assert float(cosine.max()) <= shell.high + 1e-9
    far = (points - around).norm(dim=1) / around.norm(dim=1)
    assert float(far.max()) <= shell.distance + 1e-6
    assert float(cosine.max() - cosine.min()) > 0.8 * (shell.high - shell.lowest)


def test_the_shell_of_cosine_one_is_the_row_itself():
    rows = drawn(2, 4, WIDTH)
    assert torch.allclose(sampled(rows, Shell(1.0, 1.0, 0.0), 1, generator()), rows, atol=1e-9)


def test_a_shell_without_points_is_refused():
    with pytest.raises(BadRequest, match=r"distance must be at least 0\.866"):
        Shell(0.1, 0.5, 0.3)
    with pytest.raises(BadRequest, match="is empty"):
        Shell(0.9, 0.5)


def test_the_seed_decides_the_points():
    rows, shell = drawn(3, 2, WIDTH), Shell(0.5, 0.9)
    first, again, other = (sampled(rows, shell, 5, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_parts_of_different_encoders_are_turned_apart_by_one_angle():
    """A part a twentieth as long gets a twentieth of the noise; zeros beside them get none."""
    shell = Shell(0.5, 0.95, 0.6)
    widths = (10, 9, 5)
    rows = torch.cat([20 * drawn(6, 3, 10), drawn(7, 3, 9), torch.zeros(3, 5).double()], dim=1)
    points = sampled(rows, shell, 100, generator(), blocks=widths)
    around = rows.repeat_interleave(100, dim=0)
    whole = torch.cosine_similarity(points, around)
    assert float(whole.min()) >= shell.lowest - 1e-9
    assert float(whole.max() - whole.min()) > 0.8 * (shell.high - shell.lowest)
    far = (points - around).norm(dim=1) / around.norm(dim=1)
    for part, own in list(zip(points.split(widths, 1), around.split(widths, 1), strict=True))[:2]:
        assert torch.allclose(torch.cosine_similarity(part, own), whole)
        assert torch.allclose((part - own).norm(dim=1) / own.norm(dim=1), far)
    assert not points[:, -5:].any()


@pytest.mark.parametrize("blocks", [(), (10, 14)])
@pytest.mark.parametrize("shell", [Shell(0.9, 1.0, 0.45), Shell(0.3, 0.8)])
def test_moments_are_the_limit_of_many_draws(shell, blocks):
    rows, weights = drawn(4, 2, WIDTH), torch.tensor([1.0, 2.5], dtype=torch.float64)
    exact = moments(rows, weights, shell, blocks=blocks)

    def apart(count):
        points = sampled(rows, shell, count, generator(9), blocks=blocks).unflatten(0, (2, count))
        second = sum(w * (p.T @ p) / count for w, p in zip(weights, points, strict=True))
        mean = points.mean(1)
        return (
            float((second - exact.second).norm() / exact.second.norm()),
            float((mean - exact.mean).norm() / exact.mean.norm()),
        )

    few, many = apart(200), apart(80_000)
    assert max(many) < 0.02
    assert many[0] < few[0] / 5  # the error falls with the root of the count: 20 times here


def test_moments_of_a_point_are_the_row():
    rows, weights = drawn(5, 3, WIDTH), torch.ones(3, dtype=torch.float64)
    exact = moments(rows, weights, Shell(1.0, 1.0, 0.0))
    assert torch.allclose(exact.mean, rows)
    assert torch.allclose(exact.second, rows.T @ rows)


def test_near_words_are_plain_sorted_by_likeness_and_leave_some_out(tiny_sd1):
    embedder = Embedder(tiny_sd1)
    words = nearest_words(embedder, "pistol", 6, without={"cat"})
    assert len(words) == 6
    assert not {"pistol", "cat"} & set(words)
    table, known = embedder.vocabulary()
    index = {word: number for number, word in known.items()}
    own = table[embedder.tokenised("pistol").content[-1]]
    likeness = [float(torch.cosine_similarity(table[index[word]], own, dim=0)) for word in words]
    assert likeness == sorted(likeness, reverse=True)
    everything = nearest_words(embedder, "pistol", 1000, without=())
    assert "cat" in everything
    assert all(word.isalpha() and len(word) >= 3 for word in everything)
