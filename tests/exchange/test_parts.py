"""Files and folders of several networks make one delta; ``part`` reads one of them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from efface.errors import BadDelta, BadModel, MissingInput
from efface.exchange.imports import import_delta
from efface.exchange.reading import difference
from tests.conftest import host
from tests.exchange.conftest import KEY, LAYER, REQUEST

ROWS = "text_encoder/embeddings.token_embedding.weight"


@pytest.fixture(scope="module")
def edited():
    """A pipeline with an edit in the U-Net and one in the text encoder."""
    pipe = host("tiny_sd1")
    with torch.no_grad():
        pipe.unet.get_parameter(f"{LAYER}.weight").mul_(1.5)
        pipe.text_encoder.get_input_embeddings().weight[300:].mul_(1.5)
    return pipe


@pytest.fixture
def source(request, edited, tmp_path):
    unet, text = edited.unet.state_dict(), edited.text_encoder.state_dict()
    if request.param == "tables":
        torch.save({"unet": unet, "text_encoder": text}, tmp_path / "delta.bin")
        return tmp_path / "delta.bin"
    if request.param == "names":
        both = {f"unet.{n}": t for n, t in unet.items()}
        both |= {f"cond_stage_model.transformer.text_model.{n}": t for n, t in text.items()}
        save_file(both, tmp_path / "both.safetensors")
        return tmp_path / "both.safetensors"
    edited.save_pretrained(tmp_path / "pipeline")
    (tmp_path / "pipeline" / "safety_checker").mkdir()
    save_file({"x": torch.ones(1)}, tmp_path / "pipeline" / "safety_checker" / "model.safetensors")
    if request.param == "folders":
        (tmp_path / "pipeline" / "model_index.json").unlink()
    return tmp_path / "pipeline"


@pytest.mark.parametrize("source", ["tables", "names", "pipeline", "folders"], indirect=True)
def test_both_networks_are_read_or_the_one_that_is_asked_for(base, source):
    found = import_delta(source, base, REQUEST)
    assert set(found.delta.patches) == {KEY, ROWS}
    assert found.delta.provenance.settings["file"] == source.name
    assert found.unused == (("safety_checker/",) if source.is_dir() else ())
    for part, key in (("unet", KEY), ("text_encoder", ROWS)):
        alone = import_delta(source, base, REQUEST, part=part)
        assert list(alone.delta.patches) == [key]
        assert alone.unused
    with pytest.raises(MissingInput, match="the base has no transformer"):
        import_delta(source, base, REQUEST, part="transformer")


def test_an_empty_table_hides_no_other(base, edited, tmp_path):
    text = edited.text_encoder.state_dict()
    torch.save({"unet": {}, "text_encoder": text}, tmp_path / "embedding.bin")
    for part in (None, "text_encoder"):
        found = import_delta(tmp_path / "embedding.bin", base, REQUEST, part=part)
        assert list(found.delta.patches) == [ROWS]
    with pytest.raises(BadDelta, match="names a weight of the model's unet"):
        import_delta(tmp_path / "embedding.bin", base, REQUEST, part="unet")


@pytest.mark.parametrize(
    "before", ["", "text_model.", "transformer.text_model.", "transformer.", "text_encoder."]
)
def test_a_text_encoder_by_its_names_anywhere(base, edited, tmp_path, before):
    text = {f"{before}{name}": each for name, each in edited.text_encoder.state_dict().items()}
    places = torch.arange(base.text_encoder.config.max_position_embeddings)[None]
    save_file(text | {f"{before}embeddings.position_ids": places}, tmp_path / "te.safetensors")
    found = import_delta(tmp_path / "te.safetensors", base, REQUEST)
    assert (list(found.delta.patches), found.unused) == ([ROWS], ())


def test_a_name_of_two_networks_asks_which(tmp_path):
    pipe = host("tiny_sdxl")
    text = {name: each * 1.5 for name, each in pipe.text_encoder.state_dict().items()}
    save_file(text, tmp_path / "te.safetensors")
    with pytest.raises(BadDelta, match="in text_encoder and in text_encoder_2; say which"):
        import_delta(tmp_path / "te.safetensors", pipe, REQUEST)
    found = import_delta(tmp_path / "te.safetensors", pipe, REQUEST, part="text_encoder")
    assert {key.partition("/")[0] for key in found.delta.patches} == {"text_encoder"}


def test_the_original_code_s_names(base, tmp_path):
    weight = base.unet.get_parameter(f"{LAYER}.weight").detach()
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    torch.save({"state_dict": {name: weight * 2}, "global_step": 7}, tmp_path / "compvis.ckpt")
    found = import_delta(tmp_path / "compvis.ckpt", base, REQUEST)
    assert (list(found.delta.patches), found.unused) == ([KEY], ("global_step",))


@pytest.mark.parametrize("before", ["", "unet."])
def test_tables_of_modules_as_esd_saves_them(base, edited, tmp_path, before):
    held = {
        f"{before}{name}": edited.unet.get_submodule(name).state_dict()
        for name in (LAYER, "conv_in")
    }
    torch.save(held, tmp_path / "esd.pt")
    patch = import_delta(tmp_path / "esd.pt", base, REQUEST).delta.patches[KEY]
    assert torch.allclose(patch.difference, 0.5 * base.unet.get_parameter(f"{LAYER}.weight"))


def test_values_that_contradict_each_other_are_refused(base, tmp_path):
    weight = base.unet.get_parameter(f"{LAYER}.weight").detach()
    save_file(
        {f"{LAYER}.weight": weight * 2, f"unet.{LAYER}.weight": weight * 3},
        tmp_path / "two.safetensors",
    )
    with pytest.raises(BadDelta, match="are the same weight"):
        import_delta(tmp_path / "two.safetensors", base, REQUEST)


def test_imported_tensors_want_no_gradient(base, edited, tmp_path):
    torch.save(dict(edited.unet.named_parameters()), tmp_path / "unet.pt")
    patch = import_delta(tmp_path / "unet.pt", base, REQUEST).delta.patches[KEY]
    assert not patch.difference.requires_grad


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("again", [torch.float32, None])
def test_rounding_is_no_edit(base, edited, tmp_path, stored, again):
    rounded = {name: each.to(stored) for name, each in edited.unet.state_dict().items()}
    save_file(
        {name: each.to(again or stored) for name, each in rounded.items()},
        tmp_path / "u.safetensors",
    )
    patches = import_delta(tmp_path / "u.safetensors", base, REQUEST).delta.patches
    assert list(patches) == [KEY]


def test_a_base_in_half_precision_was_not_edited_by_its_original():
    draw = torch.Generator().manual_seed(0)
    original = torch.randn(8, 8, generator=draw)
    base, changed = original.half(), original.clone()
    changed[2, 3] += 1
    assert not difference(original, base).any()
    found = difference(changed, base)
    assert found.nonzero().tolist() == [[2, 3]]
    assert found[2, 3] == pytest.approx(1, abs=1e-3)


def test_small_edits_in_float32_stay_whole(base):
    weight = base.unet.get_parameter(f"{LAYER}.weight").detach()
    assert torch.equal(difference(weight * (1 + 1e-6), weight), weight * (1 + 1e-6) - weight)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "my_unet.pt", "x.ckpt"])
def test_a_folder_with_a_pickle_alone_is_read(base, edited, tmp_path, name):
    torch.save(edited.unet.state_dict(), tmp_path / name)
    torch.save({"lr": 1}, tmp_path / "optimizer.bin")
    assert list(import_delta(tmp_path, base, REQUEST).delta.patches) == [KEY]


def test_a_folder_of_shards_is_read_whole(base, edited, tmp_path):
    edited.unet.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert list(import_delta(tmp_path, base, REQUEST).delta.patches) == [KEY]
    index = next(tmp_path.glob("*.json.index.json"), next(tmp_path.glob("*.index.json")))
    told = json.loads(index.read_text())
    told["weight_map"] = {name: "../outside.safetensors" for name in told["weight_map"]}
    index.write_text(json.dumps(told))
    with pytest.raises(BadModel, match="outside"):
        import_delta(tmp_path, base, REQUEST)


def test_folders_with_several_things_ask_for_one(base, edited, tmp_path):
    one = {f"{LAYER}.weight": edited.unet.get_parameter(f"{LAYER}.weight").detach()}
    for name in ("pytorch_lora_weights", "adapter_model"):
        save_file(one, tmp_path / f"{name}.safetensors")
    with pytest.raises(MissingInput, match=r"adapter_model.*pytorch_lora_weights.*name one"):
        import_delta(tmp_path, base, REQUEST)
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "unet").mkdir()
    shutil.copy(tmp_path / "pytorch_lora_weights.safetensors", tmp_path / "unet" / "a.safetensors")
    with pytest.raises(MissingInput, match=r"holds pytorch_lora_weights.* and the folders unet"):
        import_delta(tmp_path, base, REQUEST)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("x")
    with pytest.raises(MissingInput, match=r"safetensors or .bin \(it holds: notes.txt\)"):
        import_delta(empty, base, REQUEST)


class Trap:
    """What a hostile pickle would run."""

    def __reduce__(self):
        return (print, ("ran",))


def test_refused_pickles_are_one_plain_line(base, tmp_path):
    torch.save({"a": Trap()}, tmp_path / "evil.pt")
    with pytest.raises(BadDelta) as caught:
        import_delta(tmp_path / "evil.pt", base, REQUEST)
    said = str(caught.value)
    assert not {"\n", "\x1b"} & set(said)
    assert "weights_only" not in said
    assert "print" in said
    assert "ask for safetensors" in said


@pytest.mark.parametrize("held", [[torch.ones(2)], {"unet": [torch.ones(2)]}, {"a": "b"}, 3])
def test_pickles_without_names_are_refused(base, tmp_path, held):
    torch.save(held, tmp_path / "odd.pt")
    with pytest.raises(BadDelta, match="by name"):
        import_delta(tmp_path / "odd.pt", base, REQUEST)


def test_tables_without_end_are_refused(base, tmp_path):
    endless = {}
    endless["a"] = endless
    torch.save(endless, tmp_path / "endless.pt")
    with pytest.raises(BadDelta, match="without end"):
        import_delta(tmp_path / "endless.pt", base, REQUEST)
