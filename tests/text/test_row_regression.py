"""Which rows go where: wordings, company, batches, samples."""

import pytest
import torch

from efface.concepts import Concept, request
from efface.hosts.embedding import Embedder
from efface.text.row_regression import BATCH, RegressedRows, in_company, paired_prompts
from tests.conftest import shared

WANTED = request(
    [Concept(name="pistol", prompts=("a pistol, red", "the pistol"))],
    keep=[Concept(name="cat", prompts=("a cat in a hat",)), Concept(name="owl", prompts=("owl",))],
)


@pytest.fixture(scope="module")
def stream():
    return Embedder(shared("tiny_sd1"))


def rows_of(stream, text):
    return stream.embedded([text])[0]


def collected(rows):
    moved = [(x, d) for x, d in rows.batches() if d is not None]
    held = [x for x, d in rows.batches() if d is None]
    return moved, held


def test_a_wording_goes_to_itself_without_the_concept(stream):
    pairs = paired_prompts(stream, WANTED, target="prompt_without_concept")
    told = {pair.source: pair.target for pair in pairs}
    assert told == {"a pistol, red": "a , red", "the pistol": "the"}
    ((rows, changes),), _ = collected(RegressedRows(stream, pairs[:1], []))
    source, target = rows_of(stream, "a pistol, red"), rows_of(stream, "a , red")
    _, last = stream.span("a pistol, red", "pistol")
    assert torch.equal(rows[0], source[last])
    first, _ = stream.span("a pistol, red", "pistol")
    assert torch.allclose((rows + changes)[0], target[first - 1])
    assert torch.allclose((rows + changes)[1], target[first])


def test_a_kept_thing_stays_beside_an_erased_one_on_either_side(stream):
    moved, kept = in_company(stream, WANTED, 2)
    texts = {pair.source: pair for pair in moved}
    assert texts.keys() <= {
        "a cat and a pistol in a hat",
        "a pistol and a cat in a hat",
        "owl and a pistol",
        "pistol and an owl",
    }
    assert len(texts) == 2
    for pair in moved:
        source, target = rows_of(stream, pair.source), rows_of(stream, pair.target)
        ((rows, changes),), _ = collected(RegressedRows(stream, [pair], []))
        name = "cat" if "cat" in pair.source else "owl"
        _, gone = stream.span(pair.source, "pistol")
        (_, own), (_, there) = stream.span(pair.source, name), stream.span(pair.target, name)
        if own > gone:
            assert torch.allclose((rows + changes)[own - gone], target[there])
        else:
            assert torch.allclose((rows + changes)[0], target[there])
        assert torch.equal(rows[0], source[gone])
    assert set(kept) <= {"a cat and an owl in a hat", "owl and a cat"}
    assert in_company(stream, WANTED, 0) == ([], [])


def test_each_different_row_comes_once_whatever_the_batches(stream):
    many = [f"a cat {' x' * (n % 12)} {'dog' * (n // 12)}" for n in range(1, BATCH + 5)]
    _, held = collected(RegressedRows(stream, [], many))
    rows = torch.cat(held)
    every = stream.embedded(many).flatten(0, 1)
    assert len(rows) < len(every)
    assert torch.cdist(every, rows).amin(1).max() < 1e-4


def test_samples_are_rows_of_both_sides_and_the_same_for_the_same_seed(stream):
    pairs = paired_prompts(stream, WANTED, target="prompt_without_concept")
    rows = RegressedRows(stream, pairs, ["a cat in a hat", "owl"])

    def sampled(seed, **more):
        options = {"spread": False} | more
        return rows.sample(20, generator=torch.Generator().manual_seed(seed), **options)

    assert torch.equal(sampled(0), sampled(0))
    assert not torch.equal(sampled(0), sampled(1))
    assert len(sampled(0)) == 20
    spread = sampled(0, spread=True)
    assert float(torch.pdist(spread[10:]).min()) >= float(torch.pdist(sampled(0)[10:]).min())
    moved, held = collected(rows)
    assert torch.cdist(sampled(0)[:10], torch.cat([x for x, _ in moved])).amin(1).max() < 1e-6
    assert torch.cdist(sampled(0)[10:], torch.cat(held)).amin(1).max() < 1e-6
