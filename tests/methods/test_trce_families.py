"""TRCE's first stage on the toy members of larger families: the literal loop, and what it moves."""

import pytest
import torch

from efface.concepts import Concept, request, wordings
from efface.errors import BadRequest
from efface.methods.trce import Trce
from efface.text.branches import text_branches
from tests.conftest import host
from tests.reference import families as reference

FAMILIES = (
    "sdxl",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd3", "flux")),
    "pixart",
)
PISTOL = Concept(name="pistol", prompts=("a photo of a pistol in a house", "pistol"))


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    """A family and its toy pipeline in float64."""
    return request.param, host(f"tiny_{request.param}", dtype=torch.float64)


def erased(pipe, method, wanted):
    return method.erase(pipe, wanted, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow  # By default the golden numbers of the cases, from the same loops, show it.
@pytest.mark.parametrize("anchor", ["lamp", None])
def test_every_reader_equals_the_literal_loop(case, anchor):
    family, pipe = case
    wanted = request(["pistol", "red chair"], anchor=anchor, keep=["cat"])
    expected = reference.trce(pipe, family, wanted, keep=0.2, ridge=0.01)
    with erased(pipe, Trce(keep_weight=0.2, ridge=0.01), wanted).delta.apply(pipe):
        found = reference.readers(pipe, family)
        for branch, layers in expected.items():
            for layer, weight in layers.items():
                worst = float((found[branch][layer] - weight).abs().max())
                assert worst < 1e-8, (branch, layer, worst)


def summarised(pipe, family):
    """Lists the branch, the row that sums a wording up, and that of the safe wording."""
    for text in wordings(PISTOL):
        both = (text, text.replace("pistol", "lamp"))
        rows, others = (reference.token_rows(pipe, family, each) for each in both)
        for stream, (mine, theirs) in enumerate(zip(rows, others, strict=True)):
            own = reference.tokenizer_of(pipe, family, stream)
            for here, there, _ in reference.summary_places(*own, *both):
                yield "tokens", mine[0][here], theirs[0][there]
        if family != "pixart":
            yield "pooled", *(reference.pooled_row(pipe, family, each)[0] for each in both)


def held(pipe, family):
    """Lists the branch and the rows of every kept prompt."""
    for text in ("", "a cat"):
        yield "tokens", torch.cat([rows for rows, _ in reference.token_rows(pipe, family, text)])
        if family != "pixart":
            yield "pooled", reference.pooled_row(pipe, family, text)


def test_what_a_prompt_sums_up_to_becomes_what_the_safe_one_does(case):
    """Each row to a ten-thousandth of the way; rows of kept prompts move by a hundredth at most.

    Hardly any ridge and a light keep set, so that the system can be met nearly exactly.
    """
    family, pipe = case
    wanted = request(PISTOL, anchor="lamp", keep=[Concept(name="cat", prompts=("a cat",))])
    result = erased(pipe, Trce(keep_weight=1e-4, ridge=1e-9), wanted)
    before = reference.readers(pipe, family)
    with result.delta.apply(pipe):
        after = reference.readers(pipe, family)
    for branch, c, t in summarised(pipe, family):
        for name, weight in before[branch].items():
            way = (weight @ (t - c)).norm()
            assert way > 1e-3
            assert (after[branch][name] @ c - weight @ t).norm() < 1e-4 * way, (branch, name)
    for branch, rows in held(pipe, family):
        for name, weight in before[branch].items():
            moved = rows @ (after[branch][name] - weight).T
            assert moved.norm() < 1e-2 * (rows @ weight.T).norm(), (branch, name)


def test_t5_has_three_choices_of_rows(t5):
    """Its words from the concept on; its end token alone; or the concept's words alone."""
    branch = text_branches(t5)[0]
    (stream,) = branch.streams
    concept = Concept(name="smoke pistol", prompts=("a smoke pistol in a house",))
    erasures = request(concept, anchor="lamp").erasures
    end = stream.tokenised("a smoke pistol in a house").end
    words = end - 4
    heard = Trce()._pairs(branch, erasures)
    assert len(heard.weights) == words + 4
    assert float(heard.weights.sum()) == pytest.approx(1.0)
    rows, safe = stream.embedded(["a smoke pistol in a house", "a lamp in a house"])
    alone = Trce(t5_rows="end")._pairs(branch, erasures)
    assert torch.equal(alone.sources, rows[[end]])
    assert torch.equal(alone.targets, safe[[5]])
    named = Trce(end_weight=0.0, concept_weight=2.0)._pairs(branch, erasures)
    assert torch.equal(named.targets, safe[[1]].expand(words, -1))
    assert float(named.weights.sum()) == 2.0 * words


@pytest.fixture(scope="module")
def t5():
    """FLUX.1, whose tokens are T5's alone."""
    return host("tiny_flux", dtype=torch.float64)


@pytest.mark.thorough
def test_rows_that_a_family_does_not_have_are_no_reason_to_do_nothing(t5):
    """T5 has no begin token, and PixArt hides padding; pooled rows count as end rows."""
    wanted = request("pistol", anchor="lamp")
    with pytest.raises(
        BadRequest, match=r"FLUX\.1 has none of the rows whose weight is above zero"
    ):
        erased(t5, Trce(end_weight=0.0, begin_weight=1.0), wanted)
    hidden = host("tiny_pixart", dtype=torch.float64)
    with pytest.raises(BadRequest, match="has none of the rows"):
        erased(hidden, Trce(end_weight=0.0, padding_weight=1.0), wanted)
    words = erased(t5, Trce(end_weight=0.0, concept_weight=1.0), wanted).delta
    assert set(words.patches) == {"transformer/text_tokens"}
    both = erased(t5, Trce(), wanted)
    assert set(both.delta.patches) == {"transformer/text_tokens", "transformer/pooled_text"}
    assert both.diagnostics["transformer/pooled_text"]["residual"] < 0.1
