"""TRCE's first stage against the literal loop, and what its note says must hold."""

import pytest
import torch

from efface.concepts import Concept, request, wordings
from efface.errors import BadRequest
from efface.hosts.components import KEY_VALUE
from efface.hosts.embedding import Embedder
from efface.methods.trce import Trce
from efface.methods.uce import Uce
from tests.conftest import host
from tests.reference import closed_form as reference

CIGARETTE = Concept(name="cigarette", synonyms=("smoke stick",))
ERASE = request(CIGARETTE, anchor="lamp", keep=["cat", "tree"])


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module", params=["tiny_sd1", "tiny_sd2"])
def pipe(request):
    return host(request.param, dtype=torch.float64)


def edit(pipe, method, wanted=ERASE):
    return method.erase(pipe, wanted, generator=generator())


def matrix(result):
    patch = result.delta.patches[KEY_VALUE]
    return torch.eye(len(patch.left), dtype=patch.left.dtype) + patch.left @ patch.right


def paired():
    texts = wordings(CIGARETTE)
    return [
        (text, text.replace("cigarette", "lamp").replace("smoke stick", "lamp")) for text in texts
    ]


def test_the_end_rows_alone_equal_the_loop_over_layers(pipe):
    layers = reference.key_value_layers(pipe.unet)
    ends = [reference.end_rows(pipe, *pair) for pair in paired()]
    texts = ["", *(text for concept in ERASE.keep for text in wordings(concept))]
    kept = [reference.states(pipe, text)[0] for text in texts]
    expected = reference.trce(layers, ends, kept, keep=0.2, ridge=0.01)
    with edit(pipe, Trce(keep_weight=0.2, ridge=0.01)).delta.apply(pipe):
        found = reference.key_value_layers(pipe.unet)
        for name, weight in expected.items():
            assert torch.allclose(found[name], weight, atol=1e-9, rtol=0), name


def test_words_of_several_tokens_do_not_misplace_the_end(pipe):
    text = "photo of red-lamps/trees"
    end = Embedder(pipe).tokenised(text).end
    assert end == len(pipe.tokenizer(text)["input_ids"]) - 1
    assert end > len(text.split()) + 1


def test_a_lower_keep_weight_moves_the_ends_closer_to_the_safe_ones(pipe):
    left = [edit(pipe, Trce(keep_weight=w)).diagnostics["residual"] for w in (1e3, 1.0, 1e-3, 1e-6)]
    assert left == sorted(left, reverse=True)
    assert left[0] > 0.9
    assert left[-1] < 0.1


def test_a_heavy_keep_weight_changes_nothing_where_kept_rows_are(pipe):
    found = matrix(edit(pipe, Trce(keep_weight=1e6)))
    kept = reference.states(pipe, "cat")[0]
    assert torch.allclose(kept @ found.T, kept, atol=1e-4)


def test_only_weights_side_by_side_matter(pipe):
    """Both sides are means: repeating a wording as a prompt, or a kept prompt, changes nothing."""
    prompts = wordings(CIGARETTE)
    doubled = Concept(name="cigarette", synonyms=("smoke stick",), prompts=(*prompts, *prompts))
    again = edit(pipe, Trce(), request(doubled, anchor="lamp", keep=["cat", "tree"]))
    assert torch.allclose(matrix(again), matrix(edit(pipe, Trce())), atol=1e-9)


def test_without_ridge_and_keep_the_system_is_singular_and_refused(pipe):
    method = Trce(keep_weight=0.0, ridge=0.0)
    with pytest.raises(BadRequest, match="raise the ridge"):
        edit(pipe, method, request("cigarette", anchor="lamp"))


def test_the_words_of_the_concept_go_to_the_last_row(pipe):
    wanted = request(Concept(name="smoke stick", prompts=("a smoke stick",)), anchor="lamp")
    method = Trce(end_weight=0.0, concept_weight=1.0, keep_weight=0.0, ridge=1e-8)
    found = matrix(edit(pipe, method, wanted))
    source, target = reference.states(pipe, "a smoke stick")[0], reference.states(pipe, "a lamp")[0]
    ids = pipe.tokenizer("a smoke stick")["input_ids"]
    for position in range(2, len(ids) - 1):
        assert torch.allclose(found @ source[position], target[-1], atol=1e-4)
    assert not torch.allclose(found @ source[len(ids) - 1], target[-1], atol=0.1)


def test_padding_rows_move_when_asked(pipe):
    wanted = request(Concept(name="cigarette", prompts=("a cigarette",)), anchor="lamp")
    method = Trce(end_weight=0.0, padding_weight=1.0, keep_weight=0.0, ridge=1e-8)
    found = matrix(edit(pipe, method, wanted))
    (source, last_c), (target, last_t) = (
        reference.states(pipe, text) for text in ("a cigarette", "a lamp")
    )
    assert torch.allclose(found @ source[last_c + 2], target[last_t + 2], atol=1e-3)


def test_it_differs_from_uce_and_refuses_weights_that_move_nothing(pipe):
    assert not torch.allclose(matrix(edit(pipe, Trce())), matrix(edit(pipe, Uce())), atol=1e-3)
    with pytest.raises(BadRequest, match="no row would move"):
        Trce(end_weight=0.0)
    with pytest.raises(BadRequest, match="keep_weight is -1"):
        Trce(keep_weight=-1)
