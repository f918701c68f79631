"""Headers of exported files hold what readers of kohya, A1111, ModelSpec and diffusers look up."""

import base64
import hashlib
import io
import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from efface.exchange.adapter import write_adapter
from efface.exchange.headers import Description, model_fields, saved
from efface.exchange.lora_files import write_diffusers, write_kohya, write_peft
from efface.exchange.low_rank import Layers, layers_of
from efface.exchange.spm_files import write_spm
from efface.hosts.families import host_of
from efface.hosts.streaming import stream
from tests.conftest import host, shared
from tests.exchange.conftest import erased

WRITERS = {
    "diffusers": lambda layers, folder: write_diffusers(layers, folder, {}),
    "peft": lambda layers, folder: write_peft(layers, folder, {}),
    "kohya": lambda layers, folder: write_kohya(layers, folder / "a.safetensors", {}),
    "spm": lambda layers, folder: write_spm(
        layers, folder / "a.safetensors", {}, prompts=["pistol"]
    ),
}


def header(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def a1111s_version(fields):
    """Tells a family as A1111 does, by its documented rule."""
    if fields.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    return "SD2" if fields.get("ss_v2", "") == "True" else "SD1"


@pytest.mark.parametrize(
    ("family", "version", "architecture", "shown_as"),
    [
        ("sd1", "sd_v1", "stable-diffusion-v1", "SD1"),
        ("sd2", "sd_v2", "stable-diffusion-v2-512", "SD2"),
        ("sdxl", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base", "SDXL"),
        ("sd3", "sd3", "stable-diffusion-3", None),
        ("flux", "flux1", "flux-1-schnell", None),
        ("pixart", "pixart", "pixart", None),
    ],
)
def test_families_are_named_as_kohya_and_modelspec_name_them(
    family, version, architecture, shown_as
):
    pipe = shared(f"tiny_{family}")
    fields = model_fields(Layers("unet", {}, 0.0, pipe))
    assert fields["ss_base_model_version"] == version
    assert fields["modelspec.architecture"] == f"{architecture}/lora"
    assert shown_as is None or a1111s_version(fields) == shown_as


def test_a_model_that_predicts_v_is_named_so_also_from_its_folder(tmp_path):
    pipe = host("tiny_sd2")
    pipe.scheduler.register_to_config(prediction_type="v_prediction")
    expected = ("sd_v2_v", "stable-diffusion-v2-768-v")
    assert host_of(pipe).file_names == expected
    pipe.save_pretrained(tmp_path / "model", safe_serialization=True)
    assert host_of(stream(tmp_path / "model")).file_names == expected


def test_a_flux_with_a_guidance_embedding_is_dev():
    pipe = host("tiny_flux")
    pipe.transformer.register_to_config(guidance_embeds=True)
    assert host_of(pipe).file_names.architecture == "flux-1-dev"


@pytest.mark.parametrize("name", WRITERS)
def test_hashes_are_of_the_bytes_after_the_header(tmp_path, name):
    layers = layers_of(erased("tiny_sd1"), shared("tiny_sd1"))
    if name == "spm":
        layers = layers_of(erased("tiny_sd1"), shared("tiny_sd1"), rank=1)
    path = WRITERS[name](layers, tmp_path)
    whole, fields = path.read_bytes(), header(path)
    start = 8 + int.from_bytes(whole[:8], "little")
    digest = hashlib.sha256(whole[start:]).hexdigest()
    assert fields["sshs_model_hash"] == digest
    assert fields["modelspec.hash_sha256"] == f"0x{digest}"
    assert fields["modelspec.sai_model_spec"] == "1.0.1"
    assert (fields["ss_base_model_version"], fields["ss_v2"]) == ("sd_v1", "False")
    assert (fields["ss_network_dim"], float(fields["ss_network_alpha"])) == (
        str(layers.rank),
        layers.rank,
    )


def test_the_legacy_hash_is_of_the_file_with_kohya_s_fields_alone(tmp_path):
    tensors = {"a": torch.arange(600_000, dtype=torch.float32)}  # longer than where it starts
    fields = {"ss_v2": "False", "modelspec.title": "any"}
    save_file(tensors, tmp_path / "kohya.safetensors", {"ss_v2": "False"})
    whole = (tmp_path / "kohya.safetensors").read_bytes()
    legacy = hashlib.sha256(whole[0x100000:0x110000]).hexdigest()[:8]
    (tmp_path / "ours.safetensors").write_bytes(saved(tensors, fields))
    assert header(tmp_path / "ours.safetensors")["sshs_legacy_hash"] == legacy


def test_an_adapter_s_header_has_its_hash_and_keeps_its_format(tmp_path):
    path = write_adapter(erased("tiny_sd1"), tmp_path / "a.safetensors", {"format": "other"})
    assert header(path)["format"] == "efface-text-adapter"
    assert header(path)["sshs_model_hash"]


def test_diffusers_config_is_in_every_file_that_diffusers_reads_without_alphas(tmp_path):
    layers = layers_of(erased("tiny_sd1"), shared("tiny_sd1"))
    for name in ("diffusers", "peft"):
        config = json.loads(header(WRITERS[name](layers, tmp_path / name))["lora_adapter_metadata"])
        assert config["unet.r"] == config["unet.lora_alpha"] == layers.rank
        assert config["unet.target_modules"] == sorted(layers.by_module)
    assert "lora_adapter_metadata" not in header(WRITERS["kohya"](layers, tmp_path))


def test_a_description_is_written_whole_and_on_one_line():
    told = Description(
        title="pistol erased\nfrom x", name="edit", date="2026-01-02", author="A", licence="mit",
        description="None left.", tags=("a", "b"), merged_from=("one", "two"), thumbnail="data:x",
    )  # fmt: skip
    assert told.fields() == {
        "ss_output_name": "edit",
        "modelspec.title": "pistol erased from x",
        "modelspec.date": "2026-01-02",
        "modelspec.author": "A",
        "modelspec.license": "mit",
        "modelspec.description": "None left.",
        "modelspec.tags": "a,b",
        "modelspec.merged_from": "one,two",
        "modelspec.thumbnail": "data:x",
    }
    assert set(Description(title="t").fields()) == {"modelspec.title"}


def test_a_thumbnail_of_a_run_is_a_picture(tmp_path):
    from efface.exchange.describing import described_run

    delta = erased("tiny_sd1")
    Image.new("RGB", (256, 256), "lime").save(tmp_path / "thumbnail.jpg")
    record = {"delta": delta.id, "made": "2026-01-02T03:04:05+00:00"}
    how = {"name": "edit", "model": str(tmp_path)}
    assert described_run(tmp_path, delta, record, **how).thumbnail == "", "no card, no pictures"
    card = {"identity": {"delta": delta.id}, "summary": "Gone.", "verdict": "valid"}
    (tmp_path / "card.json").write_text(json.dumps(card))
    (tmp_path / "README.md").write_text("---\nlicense: openrail\n---\n# A base\n")
    told = described_run(tmp_path, delta, record, **how)
    kind, _, data = told.thumbnail.partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (256, 256)
    assert (told.description, told.licence) == ("Gone. Verdict: valid.", "openrail")
    assert told.date == "2026-01-02T03:04:05+00:00"
    assert told.title.startswith("pistol erased from ")
    assert described_run(tmp_path, delta, record, licence="mit", **how).licence == "mit"
