"""Methods that train, on families whose denoisers predict flows and read language models or T5."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import SD3Transformer2DModel
from peft import PeftModel

from efface import registry
from efface.concepts import Concept, request
from efface.deltas.delta import Delta
from efface.errors import BadRequest
from efface.exchange.lora_files import write_peft
from efface.exchange.low_rank import layers_of
from efface.hosts.families import FAMILIES, TRAINABLE
from efface.hosts.roles import members
from efface.runs.checks import inspect
from efface.training.checkpoints import Checkpointing
from efface.training.session import Session
from tests.conformance.snapshots import differences, snapshot
from tests.conftest import shared
from tests.methods.trained import ONE, at_one_latent, first, ran

SLOW = pytest.mark.slow
ONE_WORDING = request(
    Concept(name="pistol", prompts=("pistol",)), keep=[Concept(name="cat", prompts=("cat",))]
)
TO_LAMP = request(Concept(name="pistol", prompts=("pistol",)), anchor="lamp", keep=["cat"])
SHORT = {"steps": 100, "schedule": "cosine", "sampling_steps": 2, "trajectories": 1, "batch": 2}
SHORT |= {"keep_weight": 3.0, "keep_batch": 4, "keep_trajectories": 2, "optimiser": "adam"}
TEXT_SIDE = {
    "auraflow": 1e-3,
    "sana": 3e-3,
    "qwenimage": 3e-3,
    "chroma": 3e-3,
    "flux2klein": 3e-3,
    "flux2dev": 1e-3,
    "wan": 1e-3,
}
"""Families whose text has keys and values of its own, and step sizes that fit their toys."""
SHARED = {"lumina2": 1e-3, "cogview4": 3e-4, "zimage": 3e-4}
"""Families in which the same weights read the picture and text."""
FLOWS = {**TEXT_SIDE, **SHARED}
GATED = ("auraflow", "chroma", "flux2klein", "wan")
"""Families in which prompts have as many rows each, from the first one on."""


def settings(family):
    role = "cross_attention" if family in TEXT_SIDE else "layers"
    held = {"keep_weight": 10.0} if family in ("flux2dev", "wan") else {}
    return SHORT | {"parameters": role, "learning_rate": FLOWS[family]} | held


def every(default=()):
    cases = [pytest.param(each, marks=() if each in default else SLOW) for each in FLOWS]
    return pytest.mark.parametrize("family", cases)


def moved(pipe, delta, run, pool, prompts):
    """Mean squares of what a delta changes of predictions on latents of a pool."""
    before = run.answered(pool, prompts)
    with delta.apply(pipe):
        after = run.answered(pool, prompts)
    return float((after - before).square().mean())


def test_all_families_are_trained_whose_denoisers_are_run():
    assert {"sd1", "sd2", "sdxl", "sd3", "flux", *FLOWS} == TRAINABLE
    assert not TRAINABLE.difference(FAMILIES)
    for name in ("esd", "concept_ablation", "trce_vision"):
        assert registry.load("methods", name).families == TRAINABLE
    assert {"sd1", "sd2", "sdxl", "sd3", "flux", *GATED} == registry.load("methods", "spm").families


@every(default=("sana",))
def test_at_first_the_target_is_as_far_as_guidance_says(family):
    """At the concept's own prediction e_c the target e_0 - (e_c - e_0) is 2 (e_0 - e_c) away."""
    pipe, chosen = shared(f"tiny_{family}"), settings(family)["parameters"]
    _, pool = at_one_latent("esd", pipe, ONE_WORDING, parameters=chosen)
    known = 4 * float((pool.conditional - pool.unconditional).square().mean())
    result = ran("esd", pipe, ONE_WORDING, **ONE, parameters=chosen)
    assert first(result, "erase") == pytest.approx(known, rel=1e-3)
    assert known > 0


@every()
def test_the_concept_moves_to_its_target_and_what_is_kept_hardly(family):
    """On the latents that both were trained on; toys read little of text elsewhere."""
    pipe = shared(f"tiny_{family}")
    before = snapshot(pipe)
    result = ran("esd", pipe, ONE_WORDING, **settings(family))
    assert not differences(before, snapshot(pipe))
    assert result.curves["keep"][0] == pytest.approx(0.0, abs=1e-6)
    ended = sum(result.curves["erase"][-5:]) / 5
    assert ended < 0.7 * first(result, "erase")
    run, _ = at_one_latent("esd", pipe, ONE_WORDING, **settings(family))
    pool = run.pool()
    erased = moved(pipe, result.delta, run, pool, run.prompts)
    cats = run.denoiser.conditions(["cat"])
    kept = moved(pipe, result.delta, run, run.kept, cats)
    assert kept < 0.25 * erased
    assert not differences(before, snapshot(pipe)), "the delta is taken off bit for bit"


@every()
def test_an_interrupted_run_resumes_to_the_same_delta_and_its_file_is_the_same(family, tmp_path):
    pipe = shared(f"tiny_{family}")
    chosen = settings(family) | {"steps": 6, "keep_weight": 1.0}
    whole = ran("esd", pipe, ONE_WORDING, **chosen)

    def interrupting(step, *_):
        if step == 2:
            raise KeyboardInterrupt

    kept = Checkpointing(tmp_path, identity="{}", every=1000)
    with pytest.raises(KeyboardInterrupt):
        ran(
            "esd",
            pipe,
            ONE_WORDING,
            monitor=Session(interrupting, checkpointing=kept),
            **chosen,
        )
    steps = []
    going_on = Checkpointing(tmp_path, identity="{}", every=1000, resume=True)
    again = ran(
        "esd",
        pipe,
        ONE_WORDING,
        monitor=Session(lambda step, *_: steps.append(step), checkpointing=going_on),
        **chosen,
    )
    assert steps[0] == 3
    assert again.delta.id == whole.delta.id
    again.delta.save(tmp_path / "delta.safetensors")
    assert Delta.load(tmp_path).id == whole.delta.id


@every()
def test_peft_reads_what_was_trained(family, tmp_path):
    """At the full rank nothing is left out, so predictions are those of the delta."""
    pipe = shared(f"tiny_{family}")
    role = "cross_attention" if family in TEXT_SIDE else "self_attention"
    wanted = {"steps": 3, "keep_weight": 0.0, "parameters": role}
    delta = ran("esd", pipe, ONE_WORDING, **wanted).delta
    weights = {key: patch for key, patch in delta.patches.items() if key.endswith(".weight")}
    weights = {key: patch for key, patch in weights.items() if ".norm_" not in key}
    plain = Delta(patches=weights, provenance=delta.provenance)
    layers = layers_of(plain, pipe, rank=64)
    assert layers.lost < 1e-5
    agrees_with_peft(pipe, plain, layers, tmp_path)


def agrees_with_peft(pipe, plain, layers, tmp_path):
    """Compares predictions of a delta with those of the file that peft reads."""
    write_peft(layers, tmp_path, {"base_model": "tiny"})
    run, pool = at_one_latent("esd", pipe, ONE_WORDING, parameters="layers")
    unedited = run.answered(pool, run.prompts)
    with plain.apply(pipe):
        expected = run.answered(pool, run.prompts)
    held = pipe.transformer
    try:
        with torch.random.fork_rng(devices=[]):  # peft draws values that the file's then replace
            pipe.transformer = PeftModel.from_pretrained(held, tmp_path)
        found = run.answered(pool, run.prompts)
    finally:
        pipe.transformer.unload()
        pipe.transformer = held
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, unedited, atol=1e-6)


@pytest.mark.parametrize("family", [pytest.param(each, marks=SLOW) for each in FLOWS])
@pytest.mark.parametrize(
    ("method", "extra"),
    [("concept_ablation", {}), ("trce_vision", {"hold_trajectories": 2, "steering": 2.0})],
)
def test_other_methods_of_velocities_train_them_alike(family, method, extra):
    pipe = shared(f"tiny_{family}")
    role = {"concept_ablation": "attention", "trce_vision": "early_attention"}[method]
    chosen = {"parameters": role, "steps": 8, "keep_weight": 1.0, "learning_rate": 1e-4}
    before = snapshot(pipe)
    result = ran(method, pipe, TO_LAMP, **chosen, **extra)
    assert result.delta.patches.keys() <= members(pipe, role).keys()
    assert result.curves["keep"][0] == pytest.approx(0.0, abs=1e-6)
    assert not differences(before, snapshot(pipe))


@pytest.mark.parametrize("family", [pytest.param(f, marks=SLOW) for f in GATED])
def test_membranes_open_for_the_concept_alone_and_are_what_peft_reads(family, tmp_path):
    """With a gate, kept prompts give what they gave; without one the layers are plain LoRA."""
    pipe = shared(f"tiny_{family}")
    wanted = {"steps": 6, "keep_weight": 0.0, "anchors": 1, "anchoring": 1.0}
    delta = ran("spm", pipe, ONE_WORDING, calibrated=True, **wanted).delta
    seen = inspect(pipe, delta, ONE_WORDING)
    assert seen["erased_response"] > 10 * seen["kept_response"]
    plain = ran("spm", pipe, ONE_WORDING, gate="none", **wanted).delta
    assert plain.patches.keys() == delta.patches.keys()
    layers = layers_of(plain, pipe)
    assert (layers.rank, layers.lost) == (1, 0.0)
    agrees_with_peft(pipe, plain, layers, tmp_path)


@pytest.mark.parametrize("family", [pytest.param(f, marks=SLOW) for f in SHARED])
def test_weights_of_text_alone_are_refused_before_any_work_where_there_are_none(family):
    pipe = shared(f"tiny_{family}")
    ways = "nothing in the role 'cross_attention'.*; it has self_attention.*layers"
    with pytest.raises(BadRequest, match=ways):
        ran("esd", pipe, ONE_WORDING)


def with_second_attention():
    """A tiny transformer of SD 3.5's kind: its first block attends to pictures once more."""
    held = {
        name: value
        for name, value in shared("tiny_sd3").transformer.config.items()
        if not name.startswith("_")
    }
    with torch.device("meta"):
        return SD3Transformer2DModel(**held | {"dual_attention_layers": (0,)})


@SLOW
def test_roles_of_cross_attention_are_those_of_blocks_that_have_it_and_of_no_other():
    """SD 3.5's second attention is of pictures alone, beside one of both."""
    sana = shared("tiny_sana")
    assert {key.rpartition(".attn")[2] for key in members(sana, "key_value")} == {
        "2.to_k.weight",
        "2.to_v.weight",
    }
    assert all(".attn1." in key for key in members(sana, "self_attention"))
    assert all(".attn1." in key for key in members(shared("tiny_cogview4"), "self_attention"))
    assert all(".attention.to_q" in key for key in members(shared("tiny_zimage"), "queries"))
    klein = members(shared("tiny_flux2klein"), "self_attention")
    assert "transformer/single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight" in klein
    sd35 = SimpleNamespace(transformer=with_second_attention(), unet=None)
    second = "transformer/transformer_blocks.0.attn2.to_q.weight"
    assert all(second in members(sd35, role) for role in ("self_attention", "attention", "queries"))
    assert not any(".attn2." in key for key in members(sd35, "cross_attention"))
