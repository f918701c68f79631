"""UCE in rounds toward the nearest kept concepts, in every family."""

from dataclasses import replace

import pytest
import torch

from efface.closed_form.text_space import TextMap
from efface.concepts import Concept, described, request
from efface.errors import BadRequest
from efface.hosts.streaming import stream
from efface.methods.uce import Uce
from efface.runs.erasing import erase
from efface.text.anchors import toward_nearest
from efface.text.branches import text_branches
from tests.conftest import host

OTHERS = ("sd2", "sdxl", "sd3", "flux", "pixart")
FAMILIES = ["sd1", *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)]
WANTED = request(
    [Concept(name="pistol", synonyms=("revolver",)), "church"], keep=["cat", "lamp", "tree"]
)


@pytest.fixture(scope="module", params=FAMILIES)
def pipe(request):
    return host(f"tiny_{request.param}", dtype=torch.float64)


def generator():
    return torch.Generator().manual_seed(0)


def worst(pipe, wanted, enough, **settings):
    """How far the nearness of any prompt in any branch is from what is enough, as a logarithm."""
    method = Uce(keep_scale=0.1, ridge=0.01, enough=enough, **settings)
    patches = method.erase(pipe, wanted, generator=generator()).delta.patches
    found = []
    for branch in text_branches(pipe):
        left, right = patches[branch.key].left.double(), patches[branch.key].right.double()
        edit = TextMap(left[: branch.width], right[:, : branch.width])
        moving = branch.erased_prompts(wanted.erasures, tokens="legacy", target="anchor")
        found.append(
            float((moving.nearness(edit, branch.value_factor()) / enough).log().abs().max())
        )
    return max(found)


def test_rounds_bring_prompts_as_far_as_is_enough(pipe):
    named = toward_nearest(WANTED, text_branches(pipe)[0])
    one, many = (worst(pipe, named, 1.2, reweightings=rounds) for rounds in (1, 12))
    assert many < one


def test_to_the_nearest_kept_concept_is_to_that_anchor(pipe):
    named = toward_nearest(WANTED, text_branches(pipe)[0])
    assert all(erasure.anchor in WANTED.keep for erasure in named.erasures)
    found, asked, plain = (
        Uce(unanchored=rule).erase(pipe, each, generator=generator()).delta
        for rule, each in (("nearest", WANTED), ("target", named), ("target", WANTED))
    )
    assert found.provenance.request == described(named)
    for key, patch in asked.patches.items():
        assert torch.equal(found.patches[key].left, patch.left)
    assert found.id != plain.id


@pytest.mark.thorough
@pytest.mark.parametrize("family", FAMILIES)
def test_a_streamed_folder_gives_the_same_delta_bit_for_bit(family, tmp_path):
    pipe = host(f"tiny_{family}")
    pipe.save_pretrained(tmp_path / "model")
    loaded, streamed = (
        erase(model, WANTED, method="uce", reweightings=2, unanchored="nearest").delta.tensors()
        for model in (pipe, stream(tmp_path / "model"))
    )
    assert loaded.keys() == streamed.keys()
    assert all(torch.equal(loaded[name], streamed[name]) for name in loaded)


def test_settings_out_of_range_are_refused():
    with pytest.raises(BadRequest, match="reweightings is -1"):
        Uce(reweightings=-1)
    with pytest.raises(BadRequest, match="reach is 0"):
        Uce(reach=0.0)
    with pytest.raises(BadRequest, match="enough is 0"):
        Uce(enough=0.0)


def test_without_kept_concepts_there_is_no_nearest_one(pipe):
    nothing = replace(WANTED, keep=())
    with pytest.raises(BadRequest, match="nearest kept concept, and none is kept"):
        Uce(unanchored="nearest").erase(pipe, nothing, generator=generator())
