"""Edits of other tools become deltas against their base, or a line that says why not."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from efface.deltas.delta import Delta
from efface.errors import BadDelta, MissingInput
from efface.exchange.imports import import_delta
from efface.hosts.shards import came_instead
from tests.conftest import host
from tests.exchange.conftest import REQUEST, predicted, with_delta


def edited_layers(pipe, delta, *, only="attn2"):
    with delta.apply(pipe):
        return {
            name: weight.detach().clone()
            for name, weight in pipe.unet.named_parameters()
            if only in name
        }


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_edited_layers_by_name_as_esd_and_uce_save_them(pipe, delta, tmp_path, prefix):
    layers = edited_layers(pipe, delta)
    save_file({prefix + name: t for name, t in layers.items()}, tmp_path / "uce.safetensors")
    found = import_delta(tmp_path / "uce.safetensors", pipe, REQUEST)
    assert found.layout == "edited weights"
    assert all("attn2.to_" in key for key in found.delta.patches)
    assert torch.equal(with_delta(pipe, found.delta), with_delta(pipe, delta))


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"state_dict": d}, lambda d: {"unet": d}])
def test_whole_state_dicts_in_pt_files(pipe, delta, tmp_path, wrap):
    torch.save(wrap(edited_layers(pipe, delta, only="")), tmp_path / "rece.pt")
    found = import_delta(tmp_path / "rece.pt", pipe, REQUEST)
    assert len(found.delta.patches) == len(delta.provenance.base_sketch)
    assert torch.equal(with_delta(pipe, found.delta), with_delta(pipe, delta))


def test_a_folder_of_an_edited_network(pipe, delta, tmp_path):
    with delta.apply(pipe):
        pipe.unet.save_pretrained(tmp_path / "unet")
    found = import_delta(tmp_path / "unet", pipe, REQUEST)
    assert torch.equal(with_delta(pipe, found.delta), with_delta(pipe, delta))


@pytest.mark.thorough
def test_an_import_is_a_delta_like_any_other(pipe, delta, tmp_path):
    save_file(edited_layers(pipe, delta), tmp_path / "uce.safetensors")
    made = import_delta(tmp_path / "uce.safetensors", pipe, REQUEST).delta
    made.save(tmp_path / "delta.safetensors")
    again = Delta.load(tmp_path / "delta.safetensors")
    assert again.id == made.id
    assert (again.provenance.method, again.provenance.settings["layout"]) == (
        "import",
        "edited weights",
    )
    before = predicted(pipe)
    with again.apply(pipe):
        assert not torch.equal(predicted(pipe), before)
    assert torch.equal(predicted(pipe), before)
    with pytest.raises(BadDelta, match="load the base"):
        again.apply(
            host("tiny_sd1", seed=9)
            if pipe.unet.config.attention_head_dim == 4
            else host("tiny_sd2", seed=9)
        )


def test_keys_that_belong_to_nothing_are_told(pipe, delta, tmp_path):
    layers = edited_layers(pipe, delta) | {"stranger.weight": torch.zeros(2)}
    save_file(layers, tmp_path / "uce.safetensors")
    assert import_delta(tmp_path / "uce.safetensors", pipe, REQUEST).unused == ("stranger.weight",)


def refusal(kind, path, pipe):
    with pytest.raises(kind) as caught:
        import_delta(path, pipe, REQUEST)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_fit_nothing_are_refused_with_names_of_both_sides(pipe, tmp_path):
    save_file({"blocks.0.attn.to_q.weight": torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    said = refusal(BadDelta, tmp_path / "a.safetensors", pipe)
    assert "blocks.0.attn.to_q.weight" in said
    assert "conv_in" in said
    lora = {"x.to_k.lora_A.weight": torch.zeros(1, 2), "x.to_k.lora_B.weight": torch.zeros(2, 1)}
    save_file(lora, tmp_path / "b.safetensors")
    assert "no layer of the LoRA" in refusal(BadDelta, tmp_path / "b.safetensors", pipe)


def test_wrong_shapes_cut_files_and_nothing_new(pipe, delta, tmp_path):
    layers = edited_layers(pipe, delta)
    name = next(iter(layers))
    save_file({name: torch.zeros(3, 5)}, tmp_path / "shape.safetensors")
    assert "(3, 5)" in refusal(BadDelta, tmp_path / "shape.safetensors", pipe)
    same = {n: w.detach().clone() for n, w in pipe.unet.named_parameters() if "attn2" in n}
    save_file(same, tmp_path / "same.safetensors")
    assert "differs from the base" in refusal(BadDelta, tmp_path / "same.safetensors", pipe)
    whole = (tmp_path / "same.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-50])
    assert "damaged" in refusal(BadDelta, tmp_path / "cut.safetensors", pipe)
    half = {"unet.mid_block.x.lora_A.weight": torch.zeros(1, 2)}
    save_file(half, tmp_path / "half.safetensors")
    assert "cut short" in refusal(BadDelta, tmp_path / "half.safetensors", pipe)
    assert "there is no file" in refusal(MissingInput, tmp_path / "nothing", pipe)
    assert "name one" in refusal(MissingInput, tmp_path, pipe)


class Trap:
    """What a hostile pickle would run."""

    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize("name", ["delta.safetensors", "delta.pt"])
def test_what_came_in_place_of_weights_is_named(pipe, tmp_path, name):
    """And a safetensors file is none of it, whatever the length of its header looks like."""
    (tmp_path / "long").write_bytes((0x3C20).to_bytes(8, "little") + b"{}")
    assert came_instead(tmp_path / "long") is None
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "git lfs pull" in refusal(BadDelta, path, pipe)
    path.write_text("\n<!doctype html><title>Sign in</title>")
    assert "web page" in refusal(BadDelta, path, pipe)
    path.write_text("root:x:0:0:root:/root:/bin/sh")
    assert ("neither" if name.endswith("pt") else "damaged") in refusal(BadDelta, path, pipe)


def test_a_pickle_that_holds_more_than_tensors_is_not_read(pipe, tmp_path, capsys):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"a": Trap()}))
    torch.save({"a": Trap()}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        refusal(BadDelta, tmp_path / name, pipe)
    assert "ran" not in capsys.readouterr().out
