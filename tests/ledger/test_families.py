"""Ledgers of larger families: every branch in any order to the bit; and files made before."""

import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from efface.closed_form.edit_report import stored
from efface.closed_form.text_space import TokenPairs, joined, ridge_edit, token_factors
from efface.concepts import Concept, request
from efface.errors import BadRequest
from efface.hosts.embedding import Embedder
from efface.ledger import Ledger
from efface.ledger.rows import Encoder, read_rows, write_rows
from efface.methods.uce import Uce
from efface.runs.erasing import erase
from efface.text.branches import text_branches
from efface.text.keep_sets import kept_set
from tests.conftest import host
from tests.reference.language import ROWS

FILES = Path(__file__).parent / "files"
"""Ledgers of Stable Diffusion 1.x and 2.x with the delta they gave, of before other families."""
SLOW = pytest.mark.slow
FAMILIES = (
    "sdxl",
    *(pytest.param(each, marks=SLOW) for each in ("sd3", "flux", "auraflow", *ROWS)),
    "pixart",
)
BRANCHES = {
    "sdxl": {"unet/key_value", "unet/pooled_text"},
    "sd3": {"transformer/text_tokens", "transformer/pooled_text"},
    "flux": {"transformer/text_tokens", "transformer/pooled_text"},
    "auraflow": {"transformer/text_tokens"},
    "pixart": {"transformer/key_value"},
    **{name: {"transformer/text_tokens"} for name in ROWS},
    **{name: {"transformer/key_value"} for name in ("sana", "sanasprint", "wan")},
}
CAT = Concept(name="cat", prompts=("a cat",))
WORDS = {"a": "pistol", "b": "church", "c": "knife"}


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    return request.param, host(f"tiny_{request.param}")


def wanted(word, **more):
    return request(Concept(name=word, prompts=(f"a {word}",)), **more)


def new(folder, pipe, *ids):
    book = Ledger.create(folder, pipe, method=Uce(keep_scale=0.5), keep=(CAT,))
    for name in ids:
        book = book.add(pipe, wanted(WORDS[name]), id=name, date="2026-01-01", weight=1.5)
    return book


def bits(book, pipe):
    return book.erase(pipe).delta.tensors()


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_ledger_made_before_gives_what_it_gave(tmp_path, family):
    """Bit for bit what its own solve was then, and the stored delta to rounding of machines."""
    shutil.copytree(FILES / family, tmp_path / "book")
    pipe, book = host(f"tiny_{family}"), Ledger.open(tmp_path / "book")
    assert [entry.id for entry in book.active] == ["T-1", "T-3"]
    assert book.find("T-2").revoked.reason == "licensed"
    result = book.erase(pipe)
    (patch,) = result.delta.patches.values()
    then = load_file(FILES / family / "expected.safetensors")
    whole = then["left"] @ then["right"]
    assert torch.allclose(patch.left @ patch.right, whole, atol=1e-5, rtol=0)

    method, stacked = book.method, []
    for entry in book.active:
        raw = load_file(FILES / family / "rows" / f"{entry.id}.safetensors")
        rows = (raw[name].double() for name in ("sources", "targets"))
        stacked.append(TokenPairs(*rows, raw["weights"]).scaled(entry.weight))
    pairs = joined(stacked)
    kept = kept_set(Embedder(pipe), book.keep, tokens=method.tokens, always=method.always_keep)
    erased, held = token_factors(float(pairs.weights.sum()), kept.count, method.weighting)
    solution = ridge_edit(
        pairs.scaled(method.erase_scale * erased),
        method.keep_scale * (kept.gram * held),
        ridge=method.ridge,
    )
    assert result.diagnostics["condition"] == solution.conditioning.condition
    small = stored(solution.map, text_branches(pipe)[0].weights)
    assert torch.equal(patch.left, small.left)
    assert torch.equal(patch.right, small.right)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_rows_of_before_are_written_as_they_were(tmp_path, family):
    """The same bytes, so that ledgers of one branch are read by older versions too."""
    book = Ledger.open(FILES / family)
    for entry in book.entries:
        rows = read_rows(FILES / family / "rows" / f"{entry.id}.safetensors", entry.rows)
        assert list(rows) == ["unet/key_value"]
        assert write_rows(tmp_path / "again.safetensors", rows) == entry.rows
    assert Encoder.of(host(f"tiny_{family}")).same(book.encoder)
    assert len(Encoder.of(host(f"tiny_{family}")).sketches) == len(book.encoder.sketches) == 8


@pytest.mark.thorough
def test_every_order_of_adding_gives_the_same_bits_in_every_branch(case, tmp_path):
    family, pipe = case
    made = [bits(new(tmp_path / ids, pipe, *ids), pipe) for ids in ("abc", "cab", "bac", "cba")]
    assert all(any(key in name for name in made[0]) for key in BRANCHES[family])
    assert len(made[0]) == 2 * len(BRANCHES[family])
    assert all(same(made[0], other) for other in made[1:])


@pytest.mark.slow
def test_three_less_one_is_two_also_after_a_merge_and_from_disk(case, tmp_path):
    _, pipe = case
    two = bits(new(tmp_path / "ac", pipe, "a", "c"), pipe)
    three = new(tmp_path / "abc", pipe, "a", "b", "c")
    assert not same(bits(three, pipe), two)
    assert same(bits(three.revoke("b", reason="licensed"), pipe), two)
    assert same(bits(Ledger.open(tmp_path / "abc"), pipe), two)
    merged = new(tmp_path / "left", pipe, "c").merge(new(tmp_path / "right", pipe, "a"))
    assert same(bits(merged, pipe), two)


@pytest.mark.thorough
def test_a_ledger_equals_one_request_for_everything_in_every_branch(case, tmp_path):
    family, _ = case
    pipe = host(f"tiny_{family}", dtype=torch.float64)
    method = Uce(keep_scale=0.5)
    book = Ledger.create(tmp_path / "book", pipe, method=method, keep=(CAT,))
    for name in ("a", "b"):
        book = book.add(pipe, wanted(WORDS[name], anchor="lamp"), id=name)
    both = [Concept(name=WORDS[name], prompts=(f"a {WORDS[name]}",)) for name in ("a", "b")]
    once = erase(pipe, request(both, anchor="lamp", keep=[CAT]), method=method).delta
    mine = book.erase(pipe).delta
    assert mine.patches.keys() == once.patches.keys() == BRANCHES[family]
    for key, patch in once.patches.items():
        found = mine.patches[key].left @ mine.patches[key].right
        assert torch.allclose(found, patch.left @ patch.right, atol=1e-9, rtol=0), key


@pytest.mark.thorough
def test_a_ledger_moves_to_another_family_and_to_no_other_encoder(case, tmp_path):
    family, pipe = case
    shutil.copytree(FILES / "sd1", tmp_path / "book")
    book = Ledger.open(tmp_path / "book")
    with pytest.raises(BadRequest, match="replay it on this base"):
        book.erase(pipe)
    moved = book.replay(tmp_path / "moved", pipe)
    there = Ledger.create(tmp_path / "there", pipe, method=book.method, keep=book.keep)
    for entry in book.active:
        there = there.add(pipe, entry.request, id=entry.id, date=entry.date, weight=entry.weight)
    assert same(bits(moved, pipe), bits(there, pipe))
    assert moved.find("T-2").revoked.reason == "licensed"
    with pytest.raises(BadRequest, match="another text encoder"):
        moved.merge(book)
    with pytest.raises(BadRequest, match="replay it on this base"):
        moved.erase(host(f"tiny_{family}", seed=1))


@pytest.mark.parametrize(
    ("family", "part"),
    [
        ("sdxl", "text_encoder_2"),
        ("sd3", "text_encoder_3"),
        ("flux", "text_encoder_2"),
        ("pixart", "transformer"),
        pytest.param("wan", "transformer", marks=SLOW),
    ],
)
def test_every_network_that_prompts_pass_is_looked_at(family, part):
    """The last encoder of another seed is noticed, and so is PixArt's and Wan's projection."""
    pipe, other = host(f"tiny_{family}"), host(f"tiny_{family}", seed=1)
    known = Encoder.of(pipe)
    assert known.same(Encoder.of(host(f"tiny_{family}", dtype=torch.float64)))
    pipe.register_modules(**{part: other.components[part]})
    assert not known.same(Encoder.of(pipe))


def test_rows_that_lack_a_branch_are_refused(tmp_path):
    pipe = host("tiny_sdxl")
    book = new(tmp_path / "book", pipe, "a")
    place = tmp_path / "book" / "rows" / "a.safetensors"
    tensors = load_file(place)
    assert len(tensors) == 6
    save_file({name: t for name, t in tensors.items() if "pooled" not in name}, place)
    told = replace(book.find("a"), rows=sha256(place.read_bytes()).hexdigest())
    with pytest.raises(BadRequest, match=r"has no rows for 'unet/pooled_text'; replay"):
        replace(book, entries=(told,)).erase(pipe)
