"""``efface export`` and ``efface import`` from a run to files and back."""

import pytest
import torch
from safetensors.torch import load_file


def said(efface, *arguments):
    outcome = efface(*arguments, "--json")
    assert outcome.code == 0, outcome
    return outcome.json


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("diffusers-lora", "pytorch_lora_weights.safetensors"),
        ("peft", "adapter_model.safetensors"),
        ("kohya", None),
        ("comfyui", None),
    ],
)
def test_a_lora_goes_out_and_comes_back(efface, a_run, model, tmp_path, name, file):
    out = tmp_path / ("edit.safetensors" if file is None else "lora")
    told = said(efface, "export", a_run, "--as", name, "--out", out, "--model", model)
    assert "nothing is lost" in told["told"]
    back = ("import", out, "--model", model, "--concept", "pistol", "--keep", "cat")
    made = said(efface, *back, "--out", tmp_path / "back")
    assert (made["layout"], made["unused"], made["opens_for"]) == ("LoRA", [], [])
    verified = said(efface, "verify", tmp_path / "back", "--model", model)
    assert verified["agrees"]
    header = load_file(out if file is None else out / file)
    assert all(tensor.isfinite().all() for tensor in header.values())


@pytest.mark.slow
def test_a_membrane_comes_back_with_a_gate(efface, model, tmp_path):
    erase = ("erase", "spm", "--concept", "pistol", "--keep", "cat", "--smoke", "--steps", "2")
    told = ("--learning-rate", "0.02", "--optimiser", "adam", "--out", tmp_path / "ours")
    assert efface(*erase, "--model", model, "--no-evaluate", *told).code == 0
    file = tmp_path / "pistol.safetensors"
    said(efface, "export", tmp_path / "ours", "--as", "spm", "--out", file, "--model", model)
    back = ("import", file, "--model", model, "--concept", "pistol", "--out", tmp_path / "back")
    made = said(efface, *back, "--unconditional", "same")
    assert (made["layout"], made["opens_for"]) == ("SPM", ["pistol"])
    assert said(efface, "verify", tmp_path / "back", "--model", model)["agrees"]
    outcome = efface(*back, "--overwrite", "--gate", "none")
    assert outcome.code == 0
    assert "acts on every prompt" in outcome.out + outcome.err
    outcome = efface(*back, "--overwrite")
    assert "as far as a prompt is like: pistol" in outcome.out + outcome.err


@pytest.mark.thorough
def test_a_folder_goes_out_whole_and_one_network_comes_back(efface, a_run, model, tmp_path):
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    (a_run / "card.md").write_text("# The Erasure Card\n")
    out, unet = tmp_path / "edited", tmp_path / "component"
    said(efface, "export", a_run, "--as", "diffusers", "--out", out, "--model", model)
    assert (out / "README.md").read_text() == "# The Erasure Card\n"
    edited = StableDiffusionPipeline.from_pretrained(out, local_files_only=True)
    said(efface, "export", a_run, "--as", "component", "--out", unet, "--model", model)
    assert sorted(each.name for each in unet.iterdir() if each.is_dir()) == ["unet"]
    assert (unet / "card.md").exists()
    alone = UNet2DConditionModel.from_pretrained(unet / "unet", local_files_only=True)
    pairs = zip(edited.unet.parameters(), alone.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    back = ("import", unet / "unet", "--model", model, "--concept", "pistol")
    made = said(efface, *back, "--out", tmp_path / "back")
    assert made["layout"] == "edited weights"
    assert made["tensors"] > 0


def test_licences_go_along(efface, a_run, broken_model, tmp_path):
    (broken_model / "LICENSE").write_text("Some licence\n")
    (broken_model / "README.md").write_text("---\nlicense: mit\n---\n")
    (a_run / "card.md").write_text("# Card\n")
    export = ("export", a_run, "--model", broken_model, "--as")
    said(efface, *export, "diffusers", "--out", tmp_path / "whole")
    assert (tmp_path / "whole" / "LICENSE").read_text() == "Some licence\n"
    assert "license: mit" in (tmp_path / "whole" / "README.base.md").read_text()
    said(efface, *export, "component", "--out", tmp_path / "part")
    assert (tmp_path / "part" / "LICENSE").exists()


def test_an_adapter_is_tiny_and_needs_no_model(efface, a_run, tmp_path):
    from efface.exchange.adapter import load_adapter

    out = tmp_path / "adapter.safetensors"
    told = said(efface, "export", a_run, "--as", "adapter", "--out", out, "--model", "nowhere")
    assert "prompt embeddings" in told["told"]
    rows = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(load_adapter(out)(rows), rows)


def test_what_is_there_is_not_replaced_unless_asked(efface, a_run, model, tmp_path):
    out = tmp_path / "edit.safetensors"
    export = ("export", a_run, "--as", "kohya", "--out", out, "--model", model)
    assert efface(*export).code == 0
    again = efface(*export)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "--overwrite" in again.err
    assert efface(*export, "--overwrite", "--scale", "0.5").code == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("export", "{run}", "--as", "onnx", "--out", "{out}"), "onnx"),
        (("export", "{nothing}", "--as", "peft", "--out", "{out}"), "there is no run"),
        (
            ("import", "{nothing}", "--concept", "cat", "--out", "{out}", "--model", "{model}"),
            "file",
        ),
        (("import", "{run}", "--out", "{out}", "--model", "{model}"), "nothing to erase"),
    ],
)
def test_bad_input_is_one_line(efface, a_run, model, tmp_path, arguments, text):
    places = {
        "run": a_run,
        "model": model,
        "out": tmp_path / "out",
        "nothing": tmp_path / "nothing",
    }
    outcome = efface(*(word.format(**places) for word in arguments))
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome
    assert text in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_card_of_another_delta_is_not_shipped(efface, a_run, model, tmp_path):
    (a_run / "card.json").write_text('{"identity": {"delta": "0123456789abcdef"}}')
    (a_run / "card.md").write_text("# A card of an older run\n")
    export = ("export", a_run, "--model", model, "--as")
    told = said(efface, *export, "kohya", "--out", tmp_path / "edit.safetensors")
    assert "left out card.md, card.json, which are of another delta" in told["told"]
    assert [each.name for each in tmp_path.glob("*card*")] == []
    said(efface, *export, "diffusers", "--out", tmp_path / "whole")
    assert not (tmp_path / "whole" / "README.md").exists()
    said(efface, *export, "component", "--out", tmp_path / "part")
    assert [each.name for each in (tmp_path / "part").glob("*card*")] == []


@pytest.mark.parametrize(
    ("flags", "text"),
    [(("--rank", "0"), "rank is 0"), (("--rank", "-1"), "-1"), (("--scale", "nan"), "nan")],
)
def test_scales_and_ranks_without_sense_write_nothing(efface, a_run, model, tmp_path, flags, text):
    out = tmp_path / "edit.safetensors"
    outcome = efface("export", a_run, "--as", "kohya", "--out", out, "--model", model, *flags)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome
    assert text in outcome.err
    assert not out.exists()


@pytest.mark.thorough
def test_a_closed_form_written_as_spm_comes_back_without_a_gate(efface, a_run, model, tmp_path):
    out = tmp_path / "spm.safetensors"
    rank = ("--rank", "1")
    said(efface, "export", a_run, "--as", "spm", "--out", out, "--model", model, *rank)
    back = ("import", out, "--model", model, "--concept", "pistol", "--out", tmp_path / "back")
    made = said(efface, *back)
    assert (made["layout"], made["opens_for"]) == ("SPM", [])


@pytest.mark.thorough
def test_one_network_of_several_can_be_asked_for(efface, model, tmp_path):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(model, local_files_only=True)
    text, unet = pipe.text_encoder.state_dict(), pipe.unet.state_dict()
    torch.save(
        {
            "unet": {n: t * 1.1 for n, t in unet.items()},
            "text_encoder": {n: t * 1.1 for n, t in text.items()},
        },
        tmp_path / "delta.bin",
    )
    back = ("import", tmp_path / "delta.bin", "--model", model, "--concept", "pistol", "--out")
    both = said(efface, *back, tmp_path / "both")
    alone = said(efface, *back, tmp_path / "alone", "--part", "text_encoder")
    assert both["tensors"] > alone["tensors"] > 0
    assert (both["unused"], len(alone["unused"])) == ([], len(unet))


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("kohya", "--scale", "0.5"), "0.5 times the change"),
        (("peft", "--scale", "2"), "2 times the change"),
        (("diffusers", "--scale", "0.5"), "0.5 times the change"),
        (("kohya", "--rank", "1"), "the change cut to rank 1"),
    ],
)
def test_a_card_of_another_strength_or_rank_is_not_shipped(
    efface, a_run, model, tmp_path, flags, what
):
    (a_run / "card.md").write_text("# The Erasure Card\n")
    out = tmp_path / ("edit.safetensors" if flags[0] == "kohya" else "edit")
    told = said(efface, "export", a_run, "--as", *flags, "--out", out, "--model", model)
    assert f"left out card.md, whose numbers are not of this: it is {what}" in told["told"]
    written = [*tmp_path.glob("edit*"), *(out.rglob("*") if out.is_dir() else ())]
    texts = [each.read_text() for each in written if each.suffix == ".md"]
    assert not any("The Erasure Card" in text for text in texts)
