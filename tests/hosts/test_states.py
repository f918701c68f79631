"""Networks that are not as they were loaded: understood, or refused by what is the matter."""

import tempfile

import pytest
import torch
from torch import nn

import efface
from efface.errors import BadDelta, BadModel, NothingChanged
from efface.hosts.components import component, components, parameters
from efface.hosts.families import layout, tiny_pipeline
from efface.hosts.states import check_editable, check_erasable, refuse_compiled
from efface.training.parameters import training
from tests.conftest import host

SHORT = {"steps": 1, "batch": 1, "sampling_steps": 2, "trajectories": 1}


@pytest.fixture
def pipe():
    return host("tiny_sd1")


@pytest.fixture(scope="module")
def delta():
    return efface.erase(host("tiny_sd1"), "pistol", keep=["cat"], method="uce").delta


def fused(pipe):
    pipe.unet.fuse_qkv_projections()


def offloaded(pipe):
    from accelerate import cpu_offload

    cpu_offload(pipe.unet, execution_device="cpu")


def packed(pipe):
    torch.ao.quantization.quantize_dynamic(pipe.unet, {nn.Linear}, dtype=torch.qint8, inplace=True)


def in_float8(pipe):
    pipe.unet.to(torch.float8_e4m3fn)


def parametrised(pipe):
    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    key = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k
    nn.utils.parametrize.register_parametrization(key, "weight", Twice())


def offloaded_to_files(pipe):
    from diffusers.hooks import apply_group_offloading

    place = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        apply_group_offloading(
            pipe.unet,
            onload_device=place,
            offload_device=place,
            offload_type="leaf_level",
            offload_to_disk_path=folder,
        )


def made_for_inference(pipe):
    key = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k
    with torch.inference_mode():
        key.weight = nn.Parameter(key.weight.detach().clone(), requires_grad=False)


def of_package(module):
    """Gives a layer the class that a quantising package has for it."""

    def change(pipe):
        key = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k
        key.__class__ = type("Packed", (nn.Linear,), {"__module__": module})

    return change


WEIGHTS = {
    "unfuse_qkv_projections": fused,
    "weights are offloaded": offloaded,
    "is quantised": packed,
    r"quantised \(float8_e4m3fn\)": in_float8,
    "remove_parametrizations": parametrised,
    "read back from files": offloaded_to_files,
    "inference_mode": made_for_inference,
}


@pytest.mark.parametrize("message", WEIGHTS)
def test_weights_that_do_not_draw_are_neither_edited_nor_erased(pipe, delta, message):
    with torch.random.fork_rng(devices=[]):
        WEIGHTS[message](pipe)
    for work in (
        lambda: delta.apply(pipe),
        lambda: delta.merge_into(pipe),
        lambda: efface.erase(pipe, "pistol", method="uce"),
        lambda: efface.erase(pipe, "pistol", method="esd", **SHORT),
    ):
        with pytest.raises(BadModel, match=message):
            work()


@pytest.mark.parametrize(
    "module",
    [
        "bitsandbytes.nn.modules",
        "torchao.quantization.linear",
        "optimum.quanto.nn.qlinear",
        "diffusers.quantizers.gguf.utils",
    ],
)
def test_layers_of_quantising_packages_are_known_by_name(pipe, delta, module):
    of_package(module)(pipe)
    with pytest.raises(BadModel, match=r"quantised \(Packed\)"):
        delta.apply(pipe)
    with pytest.raises(BadModel, match=r"quantised \(Packed\)"):
        check_erasable(pipe)


def test_a_quantised_text_encoder_is_read_and_not_trained(pipe):
    torch.ao.quantization.quantize_dynamic(
        pipe.text_encoder, {nn.Linear}, dtype=torch.qint8, inplace=True
    )
    done = efface.erase(pipe, "pistol", keep=["cat"], method="uce")
    assert done.diagnostics["erased_response"] > 0.1
    norm = pipe.text_encoder.final_layer_norm
    with (
        pytest.raises(BadModel, match="quantised"),
        training(pipe, {"text_encoder/final_layer_norm.weight": norm.weight}),
    ):
        pass


def cast_layer_by_layer(pipe):
    pipe.unet.enable_layerwise_casting(torch.bfloat16, torch.float32)


def answering_from_a_cache(pipe):
    from diffusers.hooks import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=["attn1"],
        current_timestep_callback=lambda: 1,
    )
    apply_pyramid_attention_broadcast(pipe.unet, config)


@pytest.mark.parametrize(
    ("message", "state"),
    [("layerwise casting", cast_layer_by_layer), ("disable_cache", answering_from_a_cache)],
)
def test_networks_that_answer_by_other_values_are_not_erased(pipe, message, state):
    state(pipe)
    with pytest.raises(BadModel, match=message):
        efface.erase(pipe, "pistol", method="uce")


def drawn(pipe):
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 1, "output_type": "latent", "generator": generator}
    return pipe("a photo of a pistol", **options).images


def with_a_learnt_word(pipe):
    words = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    pipe.load_textual_inversion(words, token="<thing>")


def offloaded_whole(pipe):
    from accelerate import cpu_offload_with_hook

    hook = None
    for name in ("text_encoder", "unet", "vae"):
        _, hook = cpu_offload_with_hook(getattr(pipe, name), "cpu", hook)


def offloaded_in_groups(pipe):
    place = torch.device("cpu")
    pipe.unet.enable_group_offload(place, place, offload_type="leaf_level")


HARMLESS = {
    "textual inversion": with_a_learnt_word,
    "attention slicing": lambda pipe: pipe.enable_attention_slicing(1),
    "model offload": offloaded_whole,
    "group offload": offloaded_in_groups,
    "a compiled encoder": lambda pipe: pipe.text_encoder.compile(backend="eager"),
    "channels last": lambda pipe: pipe.unet.to(memory_format=torch.channels_last),
    "float16": lambda pipe: pipe.to(torch.float16),
    "bfloat16": lambda pipe: pipe.to(torch.bfloat16),
}


@pytest.mark.parametrize(
    "state",
    ["textual inversion", *(pytest.param(n, marks=pytest.mark.slow) for n in [*HARMLESS][1:])],
)
def test_in_other_states_a_model_is_edited_as_ever(pipe, delta, state):
    """The delta is the plain model's, and pictures move and come back, bit for bit."""
    with torch.random.fork_rng(devices=[]):
        HARMLESS[state](pipe)
    (found,) = efface.erase(pipe, "pistol", keep=["cat"], method="uce").delta.patches.values()
    (plain,) = delta.patches.values()
    wanted = plain.left @ plain.right
    rounding = {"float16": 1e-2, "bfloat16": 5e-2}.get(state, 1e-4)
    assert (found.left @ found.right - wanted).norm() < rounding * wanted.norm()
    before = drawn(pipe)
    with delta.apply(pipe):
        assert (drawn(pipe) - before).abs().max() > 0.1
    assert torch.equal(drawn(pipe), before)


class Int8(torch.Tensor):
    """A weight of int8 and a scale that looks like float32, as quantising libraries make."""

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32)

    def __init__(self, values):
        self.values = values

    @classmethod
    def __torch_dispatch__(cls, function, kinds, positional=(), named=None):
        return cls(positional[0].values)


def test_a_tensor_of_another_kind_is_quantised(pipe, delta):
    layer = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k
    layer.weight = nn.Parameter(Int8(layer.weight.detach().to(torch.int8)), requires_grad=False)
    with pytest.raises(BadModel, match=r"quantised \(Int8\)"):
        delta.apply(pipe)


def with_lora(pipe):
    from peft import LoraConfig

    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"]), "style")


def with_controlnet(pipe):
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 4))
    held = StableDiffusionControlNetPipeline(
        **pipe.components, controlnet=net, requires_safety_checker=False
    )
    pipe.__class__ = type(held)
    vars(pipe).update(vars(held))


def with_image_prompts(pipe):
    pipe.unet.encoder_hid_proj = nn.Linear(2, 2)


def with_own_processor(pipe):
    class Processor(nn.Module):
        def __init__(self):
            super().__init__()
            self.to_k_custom = nn.Linear(2, 2)

        def forward(self, attention, states, *rest, **named):
            return states

    pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.set_processor(Processor())


BESIDE = {
    "LoRA style": with_lora,
    "controlnet reads the prompt by layers of its own": with_controlnet,
    "IP-Adapter": with_image_prompts,
    "attention processor": with_own_processor,
}


@pytest.mark.parametrize("message", BESIDE)
def test_other_weights_that_read_the_prompt_are_refused_by_erasing(pipe, delta, message):
    with torch.random.fork_rng(devices=[]):
        BESIDE[message](pipe)
    for method in ("uce", "esd"):
        with pytest.raises(BadModel, match=message):
            efface.erase(pipe, "pistol", method=method)
    before = pipe.unet.conv_in.weight.clone()
    with delta.apply(pipe):
        pass
    assert torch.equal(pipe.unet.conv_in.weight, before)


def test_a_fused_lora_that_is_unloaded_is_part_of_the_model(pipe):
    with torch.random.fork_rng(devices=[]):
        with_lora(pipe)
        pipe.fuse_lora(components=["unet"])
        pipe.unload_lora_weights()
    check_erasable(pipe)


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["sd1", pytest.param("flux", marks=pytest.mark.slow)])
def test_a_compiled_network_has_the_names_of_the_plain_one(family):
    plain, compiled = tiny_pipeline(family), tiny_pipeline(family)
    part = "unet" if family == "sd1" else "transformer"
    setattr(compiled, part, torch.compile(getattr(compiled, part), backend="eager"))
    assert layout(compiled) == family
    assert [key for key, _ in parameters(compiled)] == [key for key, _ in parameters(plain)]
    assert components(compiled)[part] is not getattr(compiled, part)
    one = efface.erase(plain, "pistol", method="uce").delta
    other = efface.erase(compiled, "pistol", method="uce").delta
    assert one.id == other.id
    with one.apply(compiled), other.apply(plain):
        pass


def test_layers_beside_a_compiled_network_are_refused(pipe):
    pipe.unet.compile(backend="eager")
    with pytest.raises(BadModel, match="unet is compiled"):
        refuse_compiled(pipe, "unet")
    with pytest.raises(BadModel, match="denoiser is compiled"):
        efface.erase(pipe, "pistol", keep=["cat"], method="spm", **SHORT)


def reconfigured(pipe, **changes):
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        config = {**pipe.unet.config, **changes, "_use_default_values": []}
        pipe.register_modules(unet=UNet2DConditionModel.from_config(config))


def scheduled(pipe, name):
    import diffusers

    pipe.scheduler = getattr(diffusers, name)()


UNTRAINED = {
    "reads 9 channels and gives 4": lambda pipe: reconfigured(pipe, in_channels=9),
    "reads 8 channels and gives 4": lambda pipe: reconfigured(pipe, in_channels=8),
    "time_cond_proj_dim is 8": lambda pipe: reconfigured(pipe, time_cond_proj_dim=8),
    "scheduler is LCMScheduler": lambda pipe: scheduled(pipe, "LCMScheduler"),
    "scheduler is EDMEulerScheduler": lambda pipe: scheduled(pipe, "EDMEulerScheduler"),
}


@pytest.mark.parametrize("message", UNTRAINED)
def test_networks_of_another_process_are_edited_and_not_trained(pipe, message):
    UNTRAINED[message](pipe)
    for method in ("esd", "ant", "spm", "concept_ablation", "doco", "trce_vision"):
        with pytest.raises(BadModel, match=message):
            efface.erase(pipe, "pistol", anchor="cat", keep=["cat"], method=method)
    found = efface.erase(pipe, "pistol", keep=["cat"], method="uce")
    assert found.diagnostics["erased_response"] > 0


@pytest.mark.parametrize(
    "family",
    ["sd1", "pixart", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sdxl", "sd3", "flux"))],
)
def test_the_detectors_run_the_network(family, monkeypatch):
    pipe = tiny_pipeline(family)
    part = "transformer" if hasattr(pipe, "transformer") else "unet"
    network = getattr(pipe, part)
    with torch.random.fork_rng(devices=[]):
        copy = type(network).from_config(network.config)
    copy.load_state_dict(network.state_dict())
    monkeypatch.setattr(network, "forward", copy.forward)
    with pytest.raises(NothingChanged, match="draws with other weights"):
        efface.erase(pipe, "pistol", keep=["cat"], method="uce")


def test_a_denoiser_that_is_spread_over_devices_is_refused_by_what_it_is(pipe):
    pipe.unet = torch.nn.DataParallel(pipe.unet)
    for method in ("uce", "esd"):
        with pytest.raises(BadModel, match=r"unet is wrapped in DataParallel.*pipe\.unet\.module"):
            efface.erase(pipe, "pistol", keep=["cat"], method=method)
    pipe.unet = pipe.unet.module
    assert efface.erase(pipe, "pistol", keep=["cat"], method="uce").delta


def test_a_whole_pipeline_is_editable(pipe):
    check_editable(pipe)
    check_erasable(pipe)
    with pytest.raises(BadDelta, match="no component 'vae2'"):
        component(pipe, "vae2")
