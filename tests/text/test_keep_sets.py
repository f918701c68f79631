"""Keep sets equal their rows, and come out of a folder bit for bit or not at all."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from efface.closed_form.text_space import TextMap
from efface.concepts import Concept, request, wordings
from efface.errors import BadRequest
from efface.hosts.embedding import Embedder
from efface.hosts.identity import fingerprint
from efface.hosts.streaming import stream
from efface.runs.erasing import erase
from efface.runs.workspace import Workspace
from efface.text.branches import text_branches
from efface.text.keep_sets import KeepCache, KeepSet, kept_set, remembering
from efface.text.token_rules import kept_rows
from tests.conftest import host

KEEP = [Concept(name="cat"), Concept(name="dog")]
CACHED = ("uce", "rece", "trce", "realera")


def rows_of(embedder, tokens):
    prompts = [text.format(name) for name in ("cat", "dog") for text in ("{}", "a photo of {}")]
    return torch.cat([kept_rows(embedder, prompt, tokens) for prompt in prompts])


def drawn(width, rank=3):
    draw = torch.Generator().manual_seed(0)
    made = torch.randn(2, width, rank, generator=draw).double()
    return TextMap(made[0], made[1].T)


@pytest.mark.parametrize("tokens", ["legacy", "new"])
def test_a_set_says_of_its_rows_what_the_rows_say(tiny_sd1, tokens):
    embedder = Embedder(tiny_sd1)
    keep = [Concept(name=c.name, prompts=(c.name, f"a photo of {c.name}")) for c in KEEP]
    found, rows = kept_set(embedder, keep, tokens=tokens), rows_of(embedder, tokens)
    assert found.count == len(rows)
    assert torch.allclose(found.averaged(2.0), 2.0 * rows.T @ rows / len(rows), rtol=1e-5)
    edit = drawn(embedder.width)
    expected = float((edit.of(rows) - rows).norm() / rows.norm())
    assert found.interference(edit) == pytest.approx(expected, rel=1e-6)
    nothing = KeepSet(torch.zeros(4, 4).double(), 0)
    assert nothing.interference(drawn(4)) == 0.0
    assert nothing.factors(3.0, "mean") == (pytest.approx(1 / 3), 1.0)


@pytest.mark.thorough
@pytest.mark.parametrize("method", CACHED)
def test_deltas_are_the_same_bits_with_and_without(tiny_sd1, tmp_path, method):
    erased = [request(name, keep=["cat", "dog"]) for name in ("pistol", "knife")]
    plain = [erase(tiny_sd1, each, method=method) for each in erased]
    known = [
        erase(tiny_sd1, each, method=method, workspace=Workspace(cache=tmp_path)) for each in erased
    ]
    for mine, theirs in zip(known, plain, strict=True):
        assert mine.delta.id == theirs.delta.id
        assert mine.curves["interference"] == theirs.curves["interference"]
    first, second = (each.diagnostics["keep_cache"] for each in known)
    assert first["found"] == second["encoded"] == 0
    assert second["found"] == first["encoded"] > 4
    assert "keep_cache" not in plain[0].diagnostics


@pytest.mark.parametrize("family", ["sd2", "sdxl", "sd3", "flux", "pixart"])
def test_every_branch_of_every_family_is_remembered(tmp_path, family):
    pipe = host(f"tiny_{family}")
    plain = [each.kept(KEEP, tokens="legacy") for each in text_branches(pipe)]
    for times in (0, 1):
        with remembering(tmp_path) as cache:
            known = [each.kept(KEEP, tokens="legacy") for each in text_branches(pipe)]
        for mine, theirs in zip(known, plain, strict=True):
            assert torch.equal(mine.gram, theirs.gram)
        wordings_of_both = 2 * len(wordings(KEEP[0]))
        assert (cache.found, cache.encoded) == (
            (wordings_of_both, 0) if times else (0, wordings_of_both)
        )


@pytest.mark.thorough
def test_a_folder_that_is_not_loaded_shares_the_set(tmp_path):
    pipe = host("tiny_sd1")
    pipe.save_pretrained(tmp_path / "model")
    opened = stream(tmp_path / "model")
    assert fingerprint(opened.text_encoder) == fingerprint(pipe.text_encoder)
    erased = request("pistol", keep=["cat"])
    loaded = erase(pipe, erased, method="uce", workspace=Workspace(cache=tmp_path / "cache"))
    streamed = erase(opened, erased, method="uce", workspace=Workspace(cache=tmp_path / "cache"))
    assert streamed.delta.id == loaded.delta.id
    assert streamed.diagnostics["keep_cache"]["encoded"] == 0


def test_without_a_keep_set_nothing_is_stored(tiny_sd1, tmp_path):
    told = erase(tiny_sd1, "pistol", method="uce", workspace=Workspace(cache=tmp_path)).diagnostics[
        "keep_cache"
    ]
    assert told == {"found": 0, "encoded": 0, "notes": []}
    assert list(tmp_path.iterdir()) == []


def changed_weight(pipe):
    with torch.no_grad():
        next(w for w in pipe.text_encoder.parameters() if w.ndim == 2)[3, 1] += 1e-4


def swapped_rows(pipe):
    with torch.no_grad():
        weight = next(w for w in pipe.text_encoder.parameters() if w.ndim == 2)
        weight[[3, 4]] = weight[[4, 3]].clone()


@pytest.mark.parametrize(
    "change",
    [
        changed_weight,
        swapped_rows,
        lambda pipe: pipe.text_encoder.double(),
        lambda pipe: setattr(pipe.text_encoder.config, "hidden_act", "gelu_new"),
        lambda pipe: setattr(pipe.tokenizer, "pad_token", "a</w>"),
    ],
)
def test_another_encoder_or_tokenizer_finds_nothing(tmp_path, change):
    pipe, cache = host("tiny_sd1"), KeepCache(tmp_path)
    kept_set(Embedder(pipe), KEEP, tokens="legacy", cache=KeepCache(tmp_path))
    change(pipe)
    kept_set(Embedder(pipe), KEEP, tokens="legacy", cache=cache)
    assert cache.found == 0


def test_other_prompts_rules_and_layers_find_nothing(tiny_sd1, tmp_path):
    plain = Embedder(tiny_sd1)
    asked = [
        (plain, KEEP, "legacy", ()),
        (plain, KEEP[:1], "legacy", ()),
        (plain, KEEP, "new", ()),
        (plain, KEEP, "legacy", ("",)),
        (Embedder(tiny_sd1, layer=-2), KEEP, "legacy", ()),
    ]
    for times in (0, 1):
        for embedder, keep, tokens, always in asked:
            cache = KeepCache(tmp_path)
            kept_set(embedder, keep, tokens=tokens, always=always, cache=cache)
            assert (cache.found > 0) == (times == 1)
        assert len(list(tmp_path.iterdir())) == 5


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def of_something_else(path):
    with safe_open(path, framework="pt") as opened:
        told, gram = opened.metadata(), opened.get_tensor("gram")
        count = opened.get_tensor("count")
    save_file({"gram": gram, "count": count}, path, metadata={**told, "key": "0" * 64})


def without_a_gram(path):
    save_file({"count": torch.tensor([3])}, path)


@pytest.mark.parametrize("spoil", [cut, flipped, of_something_else, without_a_gram])
def test_a_wrong_file_is_told_and_made_again(tiny_sd1, tmp_path, spoil):
    made = kept_set(Embedder(tiny_sd1), KEEP, tokens="legacy", cache=KeepCache(tmp_path))
    (path,) = tmp_path.iterdir()
    spoil(path)
    for encoded, notes in ((True, 1), (False, 0)):
        cache = KeepCache(tmp_path)
        again = kept_set(Embedder(tiny_sd1), KEEP, tokens="legacy", cache=cache)
        assert torch.equal(again.gram, made.gram)
        assert (cache.encoded > 0, len(cache.notes)) == (encoded, notes)
        assert all(path.name in note and "encoded again" in note for note in cache.notes)


def test_a_folder_that_cannot_be_written_to_is_refused(tiny_sd1, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRequest, match="cannot write"):
        erase(
            tiny_sd1,
            request("pistol", keep=["cat"]),
            method="uce",
            workspace=Workspace(cache=tmp_path / "file"),
        )
