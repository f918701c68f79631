"""Every attack against an erasure that maps rows: it runs on the mapped model, or says why not."""

import pytest
import torch

from efface import registry
from efface.errors import BadRequest
from efface.evaluation.self_tests import run_attack
from efface.revival.drawing import draw
from tests.cases import ATTACK_CASES, CASES
from tests.conformance.snapshots import differences, snapshot
from tests.conformance.test_attacks import aimed, assault, driven
from tests.conftest import shared

QUICK = ("random_prefix", "gradient_reversal", "closed_form_embedding")
REFUSED = {"cut_location", "gradient_reversal"}
"""They put shares of an edit back into weights."""
IDLE = {"closed_form_embedding"}
"""It inverts edited layers, and a map of rows edits none."""
ATTACKS = [
    pytest.param(case, id=case.attack, marks=[] if case.attack in QUICK else [pytest.mark.slow])
    for case in ATTACK_CASES
]


@pytest.fixture(scope="module")
def delta():
    method = registry.build("methods", "kernel_map", centers=40)
    generator = torch.Generator().manual_seed(0)
    return method.erase(shared("tiny_sd1"), CASES[0].request, generator=generator).delta


@pytest.mark.thorough
@pytest.mark.parametrize("case", ATTACKS)
def test_it_attacks_the_mapped_model_or_says_why_not(case, delta):
    pipe = shared("tiny_sd1")
    before, given = snapshot(pipe), assault(case, lambda _: delta)
    if case.attack in REFUSED:
        with pytest.raises(BadRequest, match="maps rows beside the weights, so no share of it"):
            run_attack(given, self_tests=())
    else:
        record = run_attack(given, self_tests=()).record
        pictures = [trial.pictures for trial in record.trials]
        if case.attack in IDLE:
            assert (record.verdict, pictures) == ("inconclusive", [0, 0, 0])
            assert record.reasons == ("the attack has nothing to try on this erasure",)
        else:
            assert record.verdict == "valid"
            assert min(pictures) > 0
    assert differences(before, snapshot(pipe)) == []


def pictures_of(case, delta):
    """Draws an attack's first attempts on the erased and on the unedited model."""
    target = aimed(case, lambda _: delta)
    attempts = driven(case, target)[0]
    with target.edited():
        erased = draw(target, attempts)
        with target.unedited():
            return erased, draw(target, attempts)


def case_of(attack):
    return next(case for case in ATTACK_CASES if case.attack == attack)


@pytest.mark.thorough
def test_the_map_is_there_while_others_attack_and_is_what_component_swap_takes_off(delta):
    erased, unedited = pictures_of(case_of("other_seeds"), delta)
    assert (erased - unedited).abs().amax(dim=(1, 2, 3)).min() > 1 / 255
    off, base = pictures_of(case_of("component_swap"), delta)
    assert torch.equal(off, base)
