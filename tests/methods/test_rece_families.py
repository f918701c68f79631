"""What returning embeddings are pulled to in families whose layers read several encoders."""

import pytest
import torch

from efface.closed_form.returning import ReturnProblem, returning_rows
from efface.concepts import request, wordings
from efface.methods.rece import Rece
from efface.text.branches import text_branches
from tests.conftest import host
from tests.reference import families as reference

ERASE = request("pistol", anchor="lamp", keep=["cat"])
# By default the golden numbers of the cases, from the same loops, show the others.
FAMILIES = (
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("sdxl", "sd3", "flux")),
    "pixart",
)


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    """A family and its toy pipeline in float64."""
    return request.param, host(f"tiny_{request.param}", dtype=torch.float64)


@pytest.mark.parametrize("toward", ["", "a red cat"])
def test_rows_are_pulled_to_their_own_stream_as_in_the_literal_loop(case, toward):
    family, pipe = case
    settings = {"rounds": 2, "strength": 3.0}
    expected = reference.edited(pipe, family, ERASE, method="rece", toward=toward, **settings)
    method = Rece(regularisation="standard", toward=toward, **settings)
    delta = method.erase(pipe, ERASE, generator=torch.Generator().manual_seed(0)).delta
    with delta.apply(pipe):
        found = reference.readers(pipe, family)
        for branch, layers in expected.items():
            for layer, weight in layers.items():
                worst = float((found[branch][layer] - weight).abs().max())
                assert worst < 1e-7, (branch, layer, worst)


def test_a_strong_pull_leaves_clip_rows_with_clip_and_t5_rows_with_t5():
    """In Stable Diffusion 3 one layer reads both: CLIP's rows end in zeros, and T5's do not."""
    branch = text_branches(host("tiny_sd3", dtype=torch.float64))[0]
    method = Rece(regularisation="standard", toward="a cat", rows="erased", tokens="new")
    concept, toward = method._chased(branch, ERASE)
    identity = torch.eye(branch.width, dtype=torch.float64)
    problem = ReturnProblem.of(identity, identity)
    rows = returning_rows(problem, concept.sources, strength=1e12, toward=toward)
    clip, t5 = (stream.embedded(["a cat"])[0] for stream in branch.streams)
    texts = wordings(ERASE.erasures[0].concept)
    for start, stream, other in ((0, 0, clip), (len(texts), 1, t5)):
        lasts = [branch.streams[stream].tokenised(text).last for text in texts]
        assert torch.allclose(rows[start : start + len(texts)], other[lasts], atol=1e-6)
    assert not clip[2, 64:].any()
    assert float(t5[1, 64:].abs().min()) > 1e-6
