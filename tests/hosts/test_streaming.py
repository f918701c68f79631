"""Folders opened without their denoiser: equal answers, little read, every broken file named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import efface
from efface.deltas.delta import Delta
from efface.errors import BadModel
from efface.hosts.encoders import StreamedEncoder
from efface.hosts.loading import load
from efface.hosts.shards import header, stored_tensors, weight_sets
from efface.hosts.streaming import reads_text, stream
from tests.conftest import host

SHARDED = "40KB"
METHODS = ("uce", "rece")


def saved(place, name, *, variant=None, shards=None, dtype=torch.float32):
    options = {"max_shard_size": shards} if shards else {}
    host(name, dtype=dtype).save_pretrained(place, variant=variant, **options)
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("plain") / "model", "tiny_sd1", shards=SHARDED)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    place = tmp_path_factory.mktemp("half") / "model"
    return saved(place, "tiny_sd2", variant="fp16", dtype=torch.float16)


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


def test_the_folder_is_really_sharded(folder):
    assert len(list((folder / "unet").glob("*.safetensors"))) > 3
    assert len(list((folder / "text_encoder").glob("*.safetensors"))) > 1


@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("which", ["folder", pytest.param("half", marks=pytest.mark.slow)])
def test_a_delta_equals_that_of_the_loaded_pipeline(request, which, method):
    place = request.getfixturevalue(which)
    streamed = efface.erase(stream(place), "pistol", keep=["cat"], method=method)
    loaded = efface.erase(load(place), "pistol", keep=["cat"], method=method)
    assert streamed.delta.id == loaded.delta.id
    for name, tensor in loaded.delta.tensors().items():
        assert torch.equal(streamed.delta.tensors()[name], tensor)
    assert streamed.delta.provenance.base_sketch == loaded.delta.provenance.base_sketch
    assert streamed.delta.provenance.base_model == loaded.delta.provenance.base_model
    for field in ("weight_change", "erased_response", "kept_response"):
        assert streamed.diagnostics[field] == pytest.approx(loaded.diagnostics[field], rel=2e-2)


@pytest.mark.parametrize("which", ["folder", pytest.param("half", marks=pytest.mark.slow)])
def test_a_map_of_rows_equals_that_of_the_loaded_pipeline_bit_for_bit(request, which, tmp_path):
    place, settings = request.getfixturevalue(which), {"method": "kernel_map", "centers": 40}
    assert which == "half" or len(list((place / "unet").glob("*.safetensors"))) > 1
    streamed = efface.erase(stream(place), "pistol", keep=["cat"], **settings).delta
    pipe = load(place)
    loaded = efface.erase(pipe, "pistol", keep=["cat"], **settings).delta
    assert streamed.id == loaded.id
    assert streamed.row_maps.keys() == loaded.row_maps.keys()
    for key, maps in loaded.row_maps.items():
        for one, other in zip(streamed.row_maps[key], maps, strict=True):
            for name in ("centers", "coefficients", "length_scale"):
                assert torch.equal(getattr(one, name), getattr(other, name))
    # The file that a streamed folder leaves is that of the loaded pipeline, and fits it.
    streamed.save(tmp_path / "delta.safetensors")
    rows = next(iter(loaded.row_maps.values()))[0].centers[None, :5].to(pipe.unet.dtype)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(rows)
    drawn = []
    for delta in (Delta.load(tmp_path), loaded):
        with delta.apply(pipe), torch.no_grad():
            drawn.append(pipe.unet(noise, 500, encoder_hidden_states=rows).sample)
    assert torch.equal(*drawn)
    with torch.no_grad():
        plain = pipe.unet(noise, 500, encoder_hidden_states=rows).sample
    assert not torch.equal(drawn[0], plain)


def test_only_what_reads_text_is_there_and_in_the_dtype_of_the_file(half):
    opened, loaded = stream(half), load(half)
    wanted = {name for name, _ in loaded.unet.named_parameters() if ".attn2.to_" in name}
    wanted = {name for name in wanted if name.endswith(("to_k.weight", "to_v.weight"))}
    assert {name for name, _ in opened.unet.named_parameters()} == wanted
    assert {weight.dtype for weight in opened.unet.parameters()} == {torch.float16}
    assert not list(opened.text_encoder.parameters())


def test_an_encoder_holds_nothing_before_and_after_it_runs(half):
    encoder = stream(half).text_encoder
    network = encoder._network[0]
    assert {weight.device.type for weight in network.parameters()} == {"meta"}
    ids = torch.tensor([[5, 7, 7, 9]])
    found = encoder(ids)[0]
    assert found.dtype == torch.float32
    assert torch.equal(found, load(half).text_encoder(ids)[0])
    assert {weight.device.type for weight in network.parameters()} == {"meta"}


def test_an_encoder_lets_go_of_its_weights_when_a_layer_fails(folder):
    encoder = stream(folder).text_encoder
    with pytest.raises(RuntimeError, match="must match"):
        encoder(torch.ones(1, 3, dtype=torch.long), attention_mask=torch.ones(1, 1, 2, 2))
    assert {weight.device.type for weight in encoder._network[0].parameters()} == {"meta"}


def test_t5_reads_its_embedding_under_the_name_it_is_saved_by(tmp_path):
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=30, d_model=16, d_ff=24, d_kv=4, num_heads=4, num_layers=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        whole = T5EncoderModel(config).eval()
    whole.half().save_pretrained(tmp_path / "text_encoder_3")
    ids = torch.tensor([[3, 9, 9, 1], [4, 1, 0, 0]])
    streamed = StreamedEncoder(tmp_path / "text_encoder_3", "T5EncoderModel")
    with torch.no_grad():
        assert torch.equal(streamed(ids)[0], whole.float()(ids)[0])


def shard(folder, number):
    return sorted((folder / "unet").glob("*.safetensors"))[number]


def test_a_missing_shard(copied):
    gone = shard(copied, 1)
    gone.unlink()
    with pytest.raises(BadModel, match=f"{gone.name} is missing"):
        stream(copied)


def test_a_truncated_shard(copied):
    file = shard(copied, 1)
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(BadModel, match=f"{file.name} has .* bytes and its header says .*cut short"):
        stream(copied)


def test_an_index_that_names_an_absent_tensor(copied):
    index = next((copied / "unet").glob("*.index.json"))
    content = json.loads(index.read_text())
    content["weight_map"]["conv_in.weight"] = content["weight_map"]["conv_out.weight"]
    index.write_text(json.dumps(content))
    with pytest.raises(BadModel, match=r"says that 'conv_in.weight' is in .* does not hold it"):
        stream(copied)


def test_an_index_without_a_map(copied):
    index = next((copied / "unet").glob("*.index.json"))
    index.write_text('{"weight_map": ["a"]}')
    with pytest.raises(BadModel, match="has no weight map of names to files"):
        stream(copied)


def test_a_text_encoder_of_another_width(copied):
    shutil.rmtree(copied / "text_encoder")
    from transformers import CLIPTextModel

    config = host("tiny_sd1").text_encoder.config
    config.hidden_size = 48
    with torch.random.fork_rng(devices=[]):
        CLIPTextModel(config).save_pretrained(copied / "text_encoder")
    with pytest.raises(BadModel, match=r"has shape \(\d+, 32\) and should read 48 values"):
        efface.erase(stream(copied), "pistol", method="uce")


def test_a_tensor_of_another_shape_in_the_encoder(copied):
    config = copied / "text_encoder" / "config.json"
    config.write_text(
        config.read_text().replace('"intermediate_size": 64', '"intermediate_size": 9')
    )
    with pytest.raises(BadModel, match=r"has shape \(64,.* and the config says \(9,"):
        stream(copied)


def test_a_config_that_makes_no_sense(copied):
    config = copied / "text_encoder" / "config.json"
    config.write_text(
        config.read_text().replace('"num_attention_heads": 4', '"num_attention_heads": 5')
    )
    for opened in (stream, load):
        with pytest.raises(BadModel, match="does not describe a CLIPTextModel"):
            opened(copied)


@pytest.mark.parametrize("left", ["entry", "folder"])
def test_a_folder_without_the_text_encoder(copied, left):
    shutil.rmtree(copied / "text_encoder")
    index = copied / "model_index.json"
    if left == "folder":
        content = json.loads(index.read_text())
        del content["text_encoder"]
        index.write_text(json.dumps(content))
    wanted = {"entry": "has no folder 'text_encoder'", "folder": "names no text encoder"}[left]
    with pytest.raises(BadModel, match=wanted):
        stream(copied)


def test_a_folder_without_a_denoiser(copied):
    index = copied / "model_index.json"
    content = json.loads(index.read_text())
    del content["unet"]
    index.write_text(json.dumps(content))
    with pytest.raises(BadModel, match="names no unet or transformer"):
        stream(copied)


def test_a_header_gives_each_tensor_its_bytes(tmp_path):
    file = tmp_path / "a.safetensors"
    values = {
        "wide": torch.arange(6, dtype=torch.float64).reshape(2, 3),
        "half": torch.arange(4, dtype=torch.bfloat16),
        "flag": torch.tensor([True, False]),
    }
    save_file(values, file)
    for name, place in header(file).items():
        assert torch.equal(place.rows(), values[name])
        assert torch.equal(place.mapped(), values[name])
        assert place.bytes == values[name].nbytes
        assert place.numel == values[name].numel()
    assert torch.equal(header(file)["wide"].rows([1]), values["wide"][1:])


def test_plain_weights_come_before_variants(folder, tmp_path):
    part = shutil.copytree(folder / "unet", tmp_path / "unet")
    whole = {name: tensor.rows() for name, tensor in stored_tensors(part).items()}
    save_file(whole, part / "diffusion_pytorch_model.non_ema.safetensors")
    found = weight_sets(part)
    assert [each.variant for each in found] == [None, "non_ema"]
    assert found[0].tensors().keys() == found[1].tensors().keys()
    assert load_file(found[1].files[0]).keys() == whole.keys()


@pytest.mark.parametrize(
    ("path", "reads"),
    [
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", True),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight", False),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q.weight", False),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.weight", False),
        ("add_embedding.linear_1.weight", True),
        ("add_embedding.linear_2.weight", False),
        ("context_embedder.bias", True),
        ("time_text_embed.text_embedder.linear_1.weight", True),
        ("time_text_embed.timestep_embedder.linear_1.weight", False),
        ("caption_projection.linear_2.bias", True),
    ],
)
def test_what_reads_text_in_every_family(path, reads):
    assert reads_text(path) == reads
