"""Methods that put an anchor in the concept's place refuse requests without one."""

import pytest

from efface.concepts import Concept, Erasure, ErasureRequest
from efface.errors import BadRequest
from efface.runs.gradient_eraser import require_anchor
from tests.methods.trained import PISTOL, TO_LAMP, made, ran

REPLACING = ("concept_ablation", "doco", "all_but_one")


@pytest.mark.parametrize("method", REPLACING)
def test_no_anchor_is_refused_with_both_ways_out(tiny_sd1, method):
    with pytest.raises(BadRequest, match=f"{method} puts an anchor .* 'pistol' has none") as told:
        ran(method, tiny_sd1, PISTOL)
    assert "name one with --anchor, or set target to prompt_without_concept" in str(told.value)


@pytest.mark.parametrize("method", REPLACING)
def test_with_an_anchor_or_another_target_nothing_is_refused(method):
    require_anchor(made(method), TO_LAMP)
    require_anchor(made(method, target="prompt_without_concept"), PISTOL)


def test_every_concept_needs_its_own():
    without = Erasure(concept=Concept(name="house"))
    mixed = ErasureRequest(erasures=(*TO_LAMP.erasures, without))
    with pytest.raises(BadRequest, match="'house' has none"):
        require_anchor(made("concept_ablation"), mixed)


@pytest.mark.parametrize("mode", ["suppress", "negate"])
def test_other_modes_need_none(mode):
    require_anchor(made("all_but_one", mode=mode), PISTOL)


@pytest.mark.thorough
def test_the_prompt_without_the_concept_takes_its_place_where_there_is_no_anchor(tiny_sd1):
    settings = {"target": "prompt_without_concept", "steps": 2}
    assert ran("concept_ablation", tiny_sd1, PISTOL, **settings).delta.patches
