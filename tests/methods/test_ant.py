"""ANT: two sides of a trajectory, the mask, and the fusion."""

import pytest
import torch

from efface.closed_form.fusion import fused
from efface.concepts import request
from efface.deltas.patches import DensePatch, LowRankPatch
from efface.diffusion.noise import guided
from efface.errors import BadDelta, BadRequest
from tests.methods.trained import (
    ONE,
    TO_LAMP,
    Nameless,
    at_one_latent,
    gradients_at,
    made,
    one_step,
    ran,
)

PLAIN = {"mask_share": 1.0, "before": 0.5}


@pytest.mark.slow
def test_the_first_loss_is_that_of_esd_at_late_latents(tiny_sd1):
    result = one_step("ant", tiny_sd1, **PLAIN, parameters="key_value")
    assert result.curves["preserve"][0] == pytest.approx(0.0, abs=1e-10)
    assert result.curves["unconditional"][0] == pytest.approx(0.0, abs=1e-10)
    assert result.curves["reverse"][0] > 1e-4
    other = one_step("ant", tiny_sd1, **PLAIN, parameters="key_value", negative_guidance=3.0)
    assert other.curves["reverse"][0] == pytest.approx(4 * result.curves["reverse"][0], rel=1e-4)
    # With eta other than 1 the preserved side asks for more guidance than there was.
    more = one_step("ant", tiny_sd1, **PLAIN, parameters="key_value", negative_guidance=5.0)
    assert more.curves["preserve"][0] == pytest.approx(4 * other.curves["preserve"][0], rel=1e-4)
    # Of one trajectory of two steps the second is late: there is one latent, and ESD's target.
    two = {"sampling_steps": 2, "parameters": "key_value"}
    _, pool = at_one_latent("esd", tiny_sd1, **two)
    late = pool[pool.step_index == 1]
    target = guided(late.unconditional, late.conditional, -1.0)
    esd = float((late.conditional - target).square().mean())
    found = ran("ant", tiny_sd1, **(ONE | PLAIN | two)).curves["reverse"][0]
    assert found == pytest.approx(esd, rel=1e-4)


@pytest.mark.slow
def test_the_empty_prompt_has_nothing_to_turn_around(tiny_sd1, monkeypatch):
    monkeypatch.setattr("efface.methods.ant.GradientRun", Nameless)
    weight = tiny_sd1.unet.conv_out.weight
    with gradients_at(weight) as seen:
        curves = one_step("ant", tiny_sd1, **PLAIN, parameters="unet").curves
    assert curves["loss"][0] == pytest.approx(0.0, abs=1e-10)
    monkeypatch.undo()
    with gradients_at(weight) as usual:
        one_step("ant", tiny_sd1, **PLAIN, parameters="unet")
    assert seen[0].norm() < 1e-3 * usual[0].norm()


def test_finding_the_mask_leaves_the_weights_as_they_are(tiny_sd1):
    run, pool = at_one_latent("ant", tiny_sd1, sampling_steps=2, maps=2, map_batches=2, before=0.5)
    with run.training("key_value") as edit:
        maps = list(run.method._maps(run, edit, *run.method._sides(pool)))
        assert not any(bool(change.any()) for change in edit.changes().values())
        assert all(weight.grad is None for weight in edit.parameters.values())
    for key, mask in maps[0].items():
        assert int(mask.sum()) == mask.numel() // 2, key


@pytest.mark.slow
def test_the_guidance_can_be_turned_around_from_the_anchor(tiny_sd1):
    settings = PLAIN | {"parameters": "key_value", "target": "anchor"}

    def loss(*wanted, **more):
        curves = one_step("ant", tiny_sd1, *wanted, **settings, **more).curves
        return curves["reverse"][0]

    plain, anchored = loss(TO_LAMP), loss(TO_LAMP, turned_from="anchor")
    assert anchored != pytest.approx(plain, rel=1e-3)
    stronger = loss(TO_LAMP, turned_from="anchor", negative_guidance=3.0)
    assert stronger == pytest.approx(4 * anchored, rel=1e-4)
    # Without an anchor that is the prediction for the empty prompt, as published.
    assert loss(turned_from="anchor") == pytest.approx(loss(), rel=1e-4)


@pytest.mark.thorough
def test_unconditional_terms_have_gradients(tiny_sd1):
    """The released code computes them without any: a run with them must differ."""
    held = ran("ant", tiny_sd1, **PLAIN, unconditional_weight=50.0, steps=3)
    free = ran("ant", tiny_sd1, **PLAIN, unconditional_weight=0.0, steps=3)
    assert held.delta.id != free.delta.id
    assert held.curves["unconditional"][-1] > 0


@pytest.mark.slow
def test_the_sides_are_swapped_for_the_released_reading(tiny_sd1):
    early = one_step("ant", tiny_sd1, **PLAIN)
    late = one_step("ant", tiny_sd1, **PLAIN, preserve_side="late")
    assert early.curves["reverse"][0] != pytest.approx(late.curves["reverse"][0], rel=1e-3)


@pytest.mark.thorough
def test_weights_outside_the_mask_stay_bit_for_bit(tiny_sd1):
    one = ran("ant", tiny_sd1, before=0.5, maps=1, map_batches=2, parameters="key_value", steps=5)
    for key, patch in one.delta.patches.items():
        changed = int((patch.difference != 0).sum())
        assert changed <= patch.difference.numel() // 2, key
        assert changed > 0.4 * patch.difference.numel(), key
    more = ran("ant", tiny_sd1, before=0.5, maps=3, map_batches=2, parameters="key_value", steps=5)
    assert more.diagnostics["weights_marked"] < one.diagnostics["weights_marked"]


@pytest.mark.slow
def test_top_and_bottom_masks_share_nothing(tiny_sd1):
    settings = {"before": 0.5, "maps": 1, "map_batches": 2, "parameters": "key_value"}
    top = ran("ant", tiny_sd1, **settings, steps=5).delta
    bottom = ran("ant", tiny_sd1, **settings, steps=5, mask_keeps="bottom").delta
    for key in top.patches:
        both = (top.patches[key].difference != 0) & (bottom.patches[key].difference != 0)
        assert not both.any()


@pytest.mark.slow
def test_a_mask_of_nothing_says_so(tiny_sd1):
    with pytest.raises(BadRequest, match=r"all zero|marks no weight"):
        ran("ant", tiny_sd1, before=0.5, maps=6, mask_share=0.002, parameters="key_value")


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_concept_without_a_keep_set_fuses_to_its_own_layers():
    patch = LowRankPatch(up=drawn(7, 3), down=drawn(3, 6, seed=1))
    rows, kept = drawn(4, 9, 6, seed=2), drawn(2, 9, 6, seed=3)
    made = fused({"w": patch}, [rows], kept, keep=0.0, ridge=1e-12)["w"]
    assert torch.allclose(made.up @ made.down, patch.up @ patch.down, atol=1e-6)
    held = fused({"w": patch}, [rows], kept, keep=1e9)["w"]
    assert (held.up @ held.down).abs().max() < 1e-6


def test_layers_that_add_nothing_fuse_to_no_change():
    rows, kept = [drawn(7, 9, 6, seed=2), drawn(7, 9, 6, seed=3)], drawn(2, 9, 6, seed=4)
    idle = LowRankPatch(up=torch.zeros(7, 4).double(), down=drawn(4, 6, seed=1))
    made = fused({"w": idle}, rows, kept, keep=2.0, scale=4.3)["w"]
    assert not (made.up @ made.down).any()


def test_the_fusion_is_where_its_objective_is_flat():
    up, down = drawn(5, 4), drawn(4, 6, seed=1)
    read, kept = [drawn(3, 8, 6, seed=2), drawn(3, 8, 6, seed=3)], drawn(2, 8, 6, seed=4)
    made = fused({"w": LowRankPatch(up, down)}, read, kept, keep=0.3, ridge=0.1)["w"]
    change = (made.up @ made.down).requires_grad_()
    total = 0.3 * (kept.flatten(0, 1) @ change.T).square().sum(1).mean()
    total = total + 0.1 * change.square().sum()
    for rows, part in zip(read, (slice(0, 2), slice(2, 4)), strict=True):
        wanted = up[:, part] @ down[part]
        total = total + (rows.flatten(0, 1) @ (change - wanted).T).square().sum(1).mean()
    total.backward()
    assert change.grad.abs().max() < 1e-10


def test_the_fusion_refuses_what_it_cannot_split():
    with pytest.raises(BadDelta, match="2 concepts"):
        fused({"w": DensePatch(drawn(5, 6))}, [drawn(1, 2, 6)] * 2, drawn(1, 2, 6))


@pytest.mark.slow
def test_several_concepts_are_fused_into_keys_and_values(tiny_sd1):
    both = request(["pistol", "house"], keep=["cat"])
    result = ran("ant", tiny_sd1, both, before=0.5, several="fused", rank=2, fusion_scale=1.0)
    assert all("attn2.to_" in key for key in result.delta.patches)
    assert all(len(patch.down) == 4 for patch in result.delta.patches.values())


def test_settings_out_of_range_are_refused():
    for bad in ({"before": 1.0}, {"mask_share": 0.0}, {"early_weight": -1.0}):
        with pytest.raises(BadRequest):
            made("ant", **bad)
