"""Patches of every kind: applying, reverting, nesting, merging, composing."""

from itertools import combinations

import pytest
import torch

from efface.deltas.application import applied_to
from efface.deltas.composition import compose
from efface.deltas.expansion import expanded
from efface.deltas.patches import LowRankPatch, RowPatch, TextMapPatch
from efface.deltas.provenance import sketch, sketch_deviation
from efface.errors import BadDelta, BadRequest
from tests.deltas import toys

MAKERS = {
    "dense": toys.dense,
    "low_rank": toys.low_rank,
    "rows": toys.rows,
    "text_map": toys.text_map,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", MAKERS)
def test_apply_changes_and_revert_restores_bit_for_bit(kind, dtype):
    model = toys.toy(dtype=dtype)
    before = toys.weights(model)
    made = toys.delta(model, MAKERS[kind](3))
    applied = made.apply(model)
    assert not toys.same(before, toys.weights(model))
    assert [record.delta.id for record in applied_to(model)] == [made.id]
    applied.revert()
    applied.revert()
    assert toys.same(before, toys.weights(model))
    assert not any("efface_applied" in vars(part) for part in vars(model).values())


def test_each_kind_adds_what_it_says():
    model = toys.toy()
    before = toys.weights(model)
    expected = {
        toys.KEY: toys.dense(3)[toys.KEY].difference,
        toys.PLAIN: (toys.drawn(3, 3, 2) @ toys.drawn(4, 2, 8)).reshape(3, 2, 2, 2),
    }
    patches = toys.dense(3) | toys.low_rank(3, toys.PLAIN, 3, 8)
    with toys.delta(model, patches).apply(model, scale=0.5):
        after = toys.weights(model)
    for key, difference in expected.items():
        assert torch.allclose(after[key] - before[key], 0.5 * difference, atol=1e-6)
    with toys.delta(model, toys.rows(3)).apply(model):
        moved = (toys.weights(model)[toys.ROWS] != before[toys.ROWS]).any(1)
    assert moved.nonzero().flatten().tolist() == [2, 5]


def test_a_text_map_multiplies_every_key_and_value_and_expands_to_layers():
    model = toys.toy()
    before = toys.weights(model)
    patch = toys.text_map(3)[toys.MAP]
    whole = torch.eye(toys.WIDTH) + patch.left @ patch.right
    with toys.delta(model, toys.text_map(3)).apply(model):
        after = toys.weights(model)
    for name in ("unet/block.attn2.to_k.weight", "unet/block.attn2.to_v.weight"):
        assert torch.allclose(after[name], before[name] @ whole, atol=1e-5)
        layer = patch.for_layer(before[name])
        assert isinstance(layer, LowRankPatch)
        assert torch.allclose(before[name] + layer.up @ layer.down, after[name], atol=1e-5)
    assert torch.equal(after[toys.PLAIN], before[toys.PLAIN])


@pytest.mark.parametrize(("one", "two"), list(combinations(MAKERS, 2)))
def test_composing_mixed_kinds_equals_applying_both(one, two):
    model = toys.toy()
    first = toys.delta(model, MAKERS[one](3), name=one)
    second = toys.delta(model, MAKERS[two](30), name=two)
    with first.apply(model), second.apply(model):
        both = toys.weights(model)
    with second.apply(model), first.apply(model):
        assert toys.close(both, toys.weights(model))
    with compose([first, second]).apply(model):
        assert toys.close(both, toys.weights(model))
    assert compose([first, second]).id == compose([second, first]).id


@pytest.mark.parametrize("kind", MAKERS)
def test_composing_one_kind_equals_applying_both(kind):
    model = toys.toy()
    first = toys.delta(model, MAKERS[kind](3), number=1)
    second = toys.delta(model, MAKERS[kind](30), number=2)
    with first.apply(model, scale=0.5), second.apply(model):
        both = toys.weights(model)
    composed = compose([first, second], scales=[0.5, 1.0])
    assert composed.kinds() == first.kinds()
    with composed.apply(model):
        assert toys.close(both, toys.weights(model))


def test_dense_and_low_rank_of_one_weight_become_dense():
    model = toys.toy()
    parts = [toys.delta(model, toys.dense(3)), toys.delta(model, toys.low_rank(5))]
    assert compose(parts).kinds() == {toys.KEY: "dense"}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_text_map_made_on_another_delta_follows_it(kind):
    model = toys.toy()
    parent = toys.delta(model, MAKERS[kind](3), number=1)
    with parent.apply(model):
        child = toys.delta(model, toys.text_map(30), parents=(parent.id,), number=2)
        with child.apply(model):
            both = toys.weights(model)
    composed = compose([child, parent])
    assert composed.provenance.parts == (parent.id, child.id)
    with composed.apply(model):
        assert toys.close(both, toys.weights(model))
    with pytest.raises(BadDelta, match=f"made on top of {parent.id}"):
        child.apply(model)
    with pytest.raises(BadDelta, match=f"made on top of {parent.id}"):
        compose([child])


def test_a_child_among_strangers_meets_its_parent_as_strongly_as_it_is_applied():
    """Its map multiplies base and half of the parent, and not what others changed beside them."""
    model, half = toys.toy(), 0.5
    before = toys.weights(model)[toys.KEY]
    parent, stranger = toys.delta(model, toys.dense(3)), toys.delta(model, toys.low_rank(5))
    with parent.apply(model, scale=half):
        child = toys.delta(model, toys.text_map(30), parents=(parent.id,))
    own = half * toys.dense(3)[toys.KEY].difference
    beside = toys.drawn(5, 4, 2) @ toys.drawn(6, 2, toys.WIDTH)
    patch = toys.text_map(30)[toys.MAP]
    expected = before + beside + own + (before + own) @ patch.left @ patch.right
    with parent.apply(model, scale=half), stranger.apply(model), child.apply(model):
        assert torch.allclose(toys.weights(model)[toys.KEY], expected, rtol=1e-4, atol=1e-5)


def test_deltas_come_off_in_reverse_order_only():
    model = toys.toy()
    before = toys.weights(model)
    first = toys.delta(model, toys.dense(3)).apply(model)
    second = toys.delta(toys.toy(), toys.low_rank(5)).apply(model)
    with pytest.raises(BadDelta, match=f"revert {second.delta.id} first"):
        first.revert()
    second.revert()
    first.revert()
    assert toys.same(before, toys.weights(model))


def test_the_same_delta_twice_is_refused():
    model = toys.toy()
    made = toys.delta(model, toys.dense(3))
    with made.apply(model), pytest.raises(BadDelta, match="applied to this model already"):
        made.apply(model)


def test_another_model_is_refused_and_stays_as_it_is():
    made = toys.delta(toys.toy(), toys.dense(3))
    other = toys.toy(seed=50)
    before = toys.weights(other)
    with pytest.raises(BadDelta, match=r"was made for toy and .* differs"):
        made.apply(other)
    assert toys.same(before, toys.weights(other))
    del other.unet.block.attn2.to_k
    with pytest.raises(BadDelta, match="no parameter"):
        made.apply(other)
    with pytest.raises(BadDelta, match="no component 'unet'"):
        made.apply(other.text_encoder)


def test_a_patch_of_another_shape_is_refused():
    model = toys.toy()
    wrong = toys.delta(model, {toys.KEY: LowRankPatch(toys.drawn(1, 3, 2), toys.drawn(2, 2, 5))})
    with pytest.raises(BadDelta, match="has shape \\(4, 6\\)"):
        wrong.apply(model)
    row = toys.delta(model, {toys.ROWS: RowPatch(torch.tensor([99]), toys.drawn(1, 1, 6))})
    with pytest.raises(BadDelta, match="for another model"):
        row.apply(model)


def test_merging_refuses_what_a_revert_would_undo():
    model = toys.toy()
    made, other = toys.delta(model, toys.dense(3)), toys.delta(model, toys.low_rank(5))
    with made.apply(model), pytest.raises(BadDelta, match="would undo a merge"):
        other.merge_into(model)
    made.merge_into(model)
    with pytest.raises(BadDelta, match="is gone; compose"):
        toys.delta(toys.toy(), toys.text_map(9)).apply(model)


@pytest.mark.parametrize(
    ("dtype", "accepted"),
    [(torch.float16, True), (torch.bfloat16, True)],
)
def test_copies_in_other_dtypes_are_the_same_base(dtype, accepted):
    weight = toys.drawn(0, 40, 40)
    deviation = sketch_deviation(sketch(weight.to(dtype)), sketch(weight))
    assert (0 < deviation < 1e-2) is accepted


def test_an_edit_of_five_percent_is_another_base():
    weight = toys.drawn(0, 40, 40)
    noise = toys.drawn(1, 40, 40)
    edited = weight + 0.05 * weight.norm() / noise.norm() * noise
    assert sketch_deviation(sketch(edited), sketch(weight)) > 1e-2
    assert sketch_deviation((1.0,), (1.0, 2.0)) == float("inf")


def test_compose_says_what_is_wrong():
    model = toys.toy()
    made = toys.delta(model, toys.dense(3))
    with pytest.raises(BadRequest, match="nothing to compose"):
        compose([])
    with pytest.raises(BadRequest, match="as many scales"):
        compose([made], scales=[1.0, 2.0])
    with pytest.raises(BadRequest, match="given twice"):
        compose([made, made])
    with pytest.raises(BadDelta, match="another base than the others"):
        compose([made, toys.delta(toys.toy(seed=50), toys.dense(4))])
    wrong = toys.delta(model, {toys.MAP: TextMapPatch(toys.drawn(1, 3, 1), toys.drawn(2, 1, 3))})
    with pytest.raises(BadDelta, match="different shapes"):
        compose([toys.delta(model, toys.text_map(3)), wrong])


@pytest.mark.parametrize("other", ["dense", "low_rank", "rows"])
def test_a_text_map_expands_to_layers_with_the_same_effect(other):
    model = toys.toy()
    made = toys.delta(model, toys.text_map(3) | MAKERS[other](30))
    layers = expanded(made, model)
    assert "text_map" not in layers.kinds().values()
    assert layers.id != made.id
    with made.apply(model):
        wanted = toys.weights(model)
    with layers.apply(model):
        assert toys.close(wanted, toys.weights(model))
    assert expanded(layers, model) is layers
