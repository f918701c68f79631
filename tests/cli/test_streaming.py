"""Folders edited without loading them, plans that come true, copies that appear whole."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from efface.deltas.delta import Delta
from efface.deltas.edited_copy import edited_copy
from efface.hosts.loading import load
from efface.hosts.streaming import stream
from efface.hosts.survey import survey
from efface.runs.planning import plan_work
from tests.cli.test_bad_input import refused
from tests.cli.test_faults import files_of_at_most
from tests.processes import started


@pytest.fixture
def plain_run(efface, model, tmp_path):
    """A run of a folder, made without pictures."""
    out = tmp_path / "plain"
    erase = ("erase", "uce", "--model", model, "--concept", "pistol", "--no-evaluate")
    assert efface(*erase, "--out", out).code == 0
    return out


@pytest.mark.thorough
def test_a_folder_is_erased_from_without_pictures_and_verified(efface, plain_run, a_run):
    assert not (plain_run / "smoke").exists()
    assert (a_run / "smoke").is_dir(), "asked for with --smoke"
    outcome = efface("verify", plain_run)
    assert outcome.code == 0, outcome
    assert "no pictures were kept" in outcome.out
    assert efface("rerun", plain_run).out.splitlines()[-1].startswith("equal")


@pytest.mark.thorough
def test_streamed_and_loaded_runs_are_the_same(efface, model, plain_run, tmp_path):
    erase = ("erase", "uce", "--model", model, "--concept", "pistol", "--smoke", "--no-evaluate")
    assert efface(*erase, "--out", tmp_path / "loaded").code == 0
    assert Delta.load(plain_run).id == Delta.load(tmp_path / "loaded").id


@pytest.mark.thorough
def test_an_edited_copy_from_the_command_line(efface, model, plain_run, tmp_path):
    out = tmp_path / "copy"
    outcome = efface("apply", plain_run, "--in-place-copy", out, "--model", model, "--json")
    assert outcome.code == 0, outcome
    assert outcome.json["tensors"] == len(Delta.load(plain_run).provenance.base_sketch)
    assert outcome.json["left_out"] == []
    base = load(model)
    with Delta.load(plain_run).apply(base):
        for one, other in zip(base.unet.parameters(), load(out).unet.parameters(), strict=True):
            assert torch.equal(one, other)


def test_a_copy_of_the_model_that_the_run_names(efface, plain_run, tmp_path):
    outcome = efface("apply", plain_run, "--in-place-copy", tmp_path / "copy")
    assert outcome.code == 0, outcome
    assert "tensors changed" in outcome.out
    assert (tmp_path / "copy" / "efface.json").is_file()


def test_copies_that_make_no_sense(efface, plain_run, tmp_path, other_model, model):
    copy = ("apply", plain_run, "--in-place-copy", tmp_path / "copy")
    refused(efface(*copy, "--prompt", "a cat"), "--in-place-copy draws nothing")
    refused(efface(*copy, "--model", "owner/name"), "owner/name is not a folder here")
    refused(efface(*copy, "--model", other_model), "give the base it was made for")
    taken = ("apply", plain_run, "--in-place-copy", plain_run)
    refused(efface(*taken), "exists already; give a name that is free")
    inside = ("apply", plain_run, "--in-place-copy", model / "copy")
    refused(efface(*inside), "lies inside the model")
    refused(efface("apply", plain_run, "--prompt", "a cat"), "give --out FILE.png")
    assert not (tmp_path / "copy").exists()


def test_a_disk_that_fills_up_in_mid_copy(efface, plain_run, tmp_path):
    with files_of_at_most(30_000):
        outcome = efface("apply", plain_run, "--in-place-copy", tmp_path / "deep" / "copy")
    refused(outcome, "no space is left; nothing half-written was kept")
    assert not (tmp_path / "deep" / "copy").exists()
    assert not [*tmp_path.rglob("*.partial")]


SLOW_COPY = """
import sys, time
from efface.cli import shell
from efface.deltas.delta import Delta
from efface.deltas.edited_copy import edited_copy

def slow(step, total, figures):
    if step == 2:
        print("copying", flush=True)
        time.sleep(120)

def verb(arguments, output):
    edited_copy(sys.argv[1], Delta.load(sys.argv[2]), sys.argv[3], monitor=slow)
    return 0

sys.exit(shell.guarded(verb, []))
"""


@pytest.mark.thorough
def test_ctrl_c_in_mid_copy_leaves_nothing_and_a_second_copy_waits(
    efface, model, plain_run, tmp_path
):
    out = tmp_path / "deep" / "copy"
    command = [sys.executable, "-c", SLOW_COPY, str(model), str(plain_run), str(out)]
    with started(command) as process:
        assert process.stdout.readline() == "copying\n", process.stderr.read()
        assert any((out.parent / ".copy.partial").iterdir())
        refused(efface("apply", plain_run, "--in-place-copy", out), "another process is writing")
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert not out.exists()
    assert not [*tmp_path.rglob("*.partial")]


def shard(folder):
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def index(folder, name, file):
    """Adds an index that places one tensor."""
    content = {"metadata": {}, "weight_map": {name: file}}
    (folder / "unet" / f"{shard(folder).name}.index.json").write_text(json.dumps(content))


@pytest.mark.parametrize("verb", ["erase", "plan"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: shard(folder).unlink(), "holds no safetensors file"),
        (lambda folder: shard(folder).write_bytes(shard(folder).read_bytes()[:-9]), "cut short"),
        (lambda folder: shutil.rmtree(folder / "text_encoder"), "text_encoder"),
        (
            lambda folder: index(folder, "conv_in.weight", "gone.safetensors"),
            "gone.safetensors is m",
        ),
        (lambda folder: index(folder, "absent.weight", shard(folder).name), "says that 'absent.we"),
    ],
)
def test_broken_folders(efface, broken_model, tmp_path, verb, spoil, said):
    spoil(broken_model)
    place = ["--out", tmp_path / "run"] if verb == "erase" else []
    words = ("--model", broken_model, "--concept", "cat", *place)
    refused(efface(verb, "uce", *words), said)
    assert not (tmp_path / "run").exists()


def test_projections_of_another_text_width(efface, broken_model, tmp_path):
    weights = load_file(shard(broken_model))
    for name in weights:
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            weights[name] = weights[name][:, :16].contiguous()
    save_file(weights, shard(broken_model))
    erase = ("erase", "uce", "--model", broken_model, "--concept", "cat", "--out", tmp_path / "run")
    refused(efface(*erase), "16) and should read 32 values", "the text encoder is of another model")
    assert not (tmp_path / "run").exists()
    plan = ("plan", "uce", "--model", broken_model, "--concept", "cat")
    refused(efface(*plan), "reads 16 values and the text encoders (text_encoder) give 32")


def test_a_broken_shard_is_found_before_a_copy(efface, broken_model, plain_run, tmp_path):
    file = shard(broken_model)
    file.write_bytes(file.read_bytes()[:-9])
    copy = ("apply", plain_run, "--model", broken_model, "--in-place-copy", tmp_path / "copy")
    refused(efface(*copy), "cut short")


@pytest.mark.thorough
def test_a_plan_comes_true(efface, model, plain_run, tmp_path):
    plan = efface("plan", "uce", "--model", model, "--concept", "pistol", "--json").json
    opened = stream(model)
    weights = list(opened.unet.parameters())
    assert plan["tensors"] == len(weights)
    assert plan["parameters"] == sum(weight.numel() for weight in weights)
    assert plan["touched_bytes"] == sum(weight.nbytes for weight in weights)
    whole = sum(weight.numel() for weight in load(model).unet.parameters())
    assert plan["share"] == plan["parameters"] / whole
    assert (plan["family"], plan["pipeline"]) == ("sd1", "StableDiffusionPipeline")
    copy = edited_copy(model, Delta.load(plain_run), tmp_path / "copy")
    assert plan["copy_bytes"] == copy.bytes
    written = (plain_run / "delta.safetensors").stat().st_size
    assert written <= plan["delta_bytes"] < 4 * written
    assert plan["licence"] == ["no licence file found"]


PEAK = """
import sys
from pathlib import Path
from efface.cli.main import main

code = main(sys.argv[1:])
for line in Path("/proc/self/status").read_text().splitlines():
    if line.startswith("VmHWM"):
        print(1024 * int(line.split()[1]), file=sys.stderr)
heavy = [name for name in sys.modules if name.startswith("diffusers.models")]
sys.exit(f"imported {heavy}" if heavy else code)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.slow
def test_a_planned_peak_is_that_of_the_process_and_no_denoiser_is_imported(efface, model, tmp_path):
    words = ["--model", str(model), "--concept", "pistol"]
    planned = efface("plan", "rece", *words, "--json").json["peak_bytes"]
    erase = ["erase", "rece", *words, "--no-evaluate", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-c", PEAK, *erase]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0.7 < planned / int(done.stderr.splitlines()[-1]) < 1.4


@pytest.mark.thorough
def test_a_plan_counts_the_prompts_that_are_embedded(model):
    from efface.concepts import request
    from efface.registry import build
    from efface.runs.erasing import erase

    for wanted in (request("pistol"), request(["pistol", "cat"], anchor="dog", keep=["tree"])):
        method = build("methods", "uce")
        opened = stream(model)
        seen = set()
        opened.text_encoder.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.update(map(tuple, inputs[0].tolist()))
        )
        erase(opened, wanted, method=method)
        assert plan_work(survey(model), method, wanted).prompts == len(seen)


def test_a_plan_of_rounds_counts_every_round_and_the_rows_that_are_held(model):
    from efface.concepts import request
    from efface.registry import build

    wanted = request("pistol", keep=[f"tree {number}" for number in range(200)])
    found = survey(model)
    plain, once, twice = (
        plan_work(found, build("methods", "uce", reweightings=rounds), wanted)
        for rounds in (0, 1, 2)
    )
    assert twice.seconds - once.seconds == pytest.approx(once.seconds - plain.seconds, rel=1e-3)
    assert once.seconds > plain.seconds
    rows = plain.prompts * sum(encoder.length for encoder in found.encoders)
    assert once.peak_bytes == twice.peak_bytes
    assert twice.peak_bytes - plain.peak_bytes == 3 * rows * found.width * 8


def test_a_plan_for_people_and_its_licence_notes(efface, broken_model):
    card = "---\nlicense: creativeml-openrail-m\nlicense_name: rail\ntags: [a]\n---\nlicense: no\n"
    (broken_model / "README.md").write_text(card)
    (broken_model / "LICENSE.md").write_text("\nCreativeML Open RAIL-M\nText\n")
    outcome = efface("plan", "rece", "--model", broken_model, "--concept", "pistol")
    assert outcome.code == 0, outcome
    assert "family sd1" in outcome.out
    assert "values in 8 tensors" in outcome.out
    notes = [line.split(maxsplit=1)[1] for line in outcome.out.splitlines() if "licence " in line]
    assert notes == [
        "license: creativeml-openrail-m",
        "license_name: rail",
        "LICENSE.md: CreativeML Open RAIL-M",
    ]


def test_plans_that_make_no_sense(efface, model, tmp_path):
    refused(efface("plan"), "name a method first: efface plan METHOD")
    refused(efface("plan", "uce", "--model", model), "nothing to erase")
    elsewhere = ("plan", "uce", "--concept", "cat", "--model", tmp_path / "none")
    refused(efface(*elsewhere), "is not a folder here")
    assert efface("plan", "--help").code == 0


def test_the_bundled_model_has_a_plan(efface):
    outcome = efface("plan", "uce", "--concept", "pistol", "--json")
    assert outcome.code == 0, outcome
    assert outcome.json["parameters"] > 0
