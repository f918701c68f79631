"""Models that read pictures on the command line: what works on them, and one line where not."""

import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import efface as package
from efface.deltas.patches import DensePatch
from efface.errors import BadDelta, BadRequest
from efface.exchange.lora_files import write_peft
from efface.exchange.low_rank import Layer, Layers, layers_of
from efface.hosts.vision_families import vision_host
from efface.hosts.vision_toys import SIDE
from efface.workbench import lineage, runs
from tests.pictures import CLASSES, fresh, knowing, stripes

STEPS = ("--epochs", "0", "--steps", "12", "--batch", "8")


def save(model, folder):
    """Writes a toy as `save_pretrained` does, with its processor."""
    model.model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def write(pictures, folder, *, classes=range(CLASSES), most=8):
    """Writes pictures as a folder with a folder for each class."""
    for number in classes:
        place = folder / pictures.names[number]
        place.mkdir(parents=True)
        own = (pictures.labels == number).nonzero().flatten().tolist()[:most]
        for which, pixels in zip(own, pictures.read(own), strict=True):
            levels = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(levels).save(place / f"{which}.png")
    return folder


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A classifier that knows stripes, and pictures to train and test with."""
    root, model = tmp_path_factory.mktemp("toys"), knowing()
    save(model, root / "model")
    write(stripes(model.labels), root / "train")
    write(stripes(model.labels, seed=5), root / "test")
    return root


def erase(root, out, concept="class 0", method="gs_lora", model="model"):
    return [
        "erase", method, "--model", root / model, "--concept", concept, "--retain-data",
        root / "train", *STEPS, "--out", out,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def requests(toys):
    """Two requests in turn; copy them before changing them."""
    from efface.cli.main import main

    settings = ["--rank", "2", "--learning-rate", "0.05", "--alpha", "6", "--forget-weight", "3"]
    first, second = toys / "first", toys / "second"
    for words in (
        [*erase(toys, first), *settings],
        [*erase(toys, second, "class 1"), *settings[2:], "--rank", "3", "--after", first],
    ):
        assert main([str(word) for word in words]) == 0
    return first, second


def logits(network, model):
    with torch.no_grad():
        return network(pixel_values=model.prepared(list(stripes(model.labels).pixels))).logits


def in_force(toys, run):
    """What the model says with a run and those beneath it."""
    model = package.load(toys / "model")
    with lineage.on_top_of(lineage.whole(runs.open_run(run)), model):
        return logits(model.model, model), model


@pytest.mark.thorough
@pytest.mark.parametrize("last", [0, 1])
def test_peft_loads_an_adapter_that_says_the_same(toys, requests, efface, tmp_path, last):
    peft = pytest.importorskip("peft")
    told = efface("export", requests[last], "--as", "peft", "--out", tmp_path / "adapter")
    assert told.code == 0, told.err
    wanted, model = in_force(toys, requests[last])
    base = AutoModelForImageClassification.from_pretrained(toys / "model")
    before = logits(base, model)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded, model), wanted, atol=1e-5, rtol=0)
    assert (wanted - before).abs().max() > 1e-3
    config = loaded.peft_config["default"]
    changed = {key.removeprefix("model/").removesuffix(".weight") for key in changed_in(requests)}
    assert config.r == config.lora_alpha == (2, 5)[last]
    assert set(config.target_modules) == changed


def changed_in(requests):
    return {key for run in requests for key in runs.open_run(run).delta.keys}


def test_layers_of_other_ranks_keep_them(toys, requests, efface, tmp_path):
    """Ranks 1, 2 and 3: the file says 3, and a pattern has the other two."""
    peft = pytest.importorskip("peft")
    model = package.load(toys / "model")
    draws = torch.Generator().manual_seed(0)
    paths = [path for one in vision_host(model).feed_forward for path in (one.first, one.second)]
    layers = {}
    for rank, path in enumerate(paths[:3], 1):
        out, in_ = model.model.get_submodule(path).weight.shape
        up = torch.randn(out, rank, generator=draws)
        layers[path] = Layer(up, torch.randn(rank, in_, generator=draws))
    write_peft(Layers("model", layers, 0.0, model), tmp_path, {})
    base = AutoModelForImageClassification.from_pretrained(toys / "model")
    loaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    for path, layer in layers.items():
        weight = model.model.get_submodule(path).weight
        weight.data += layer.up @ layer.down
    torch.testing.assert_close(
        logits(loaded, model), logits(model.model, model), atol=1e-4, rtol=1e-5
    )
    assert len(loaded.peft_config["default"].rank_pattern) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_edited_copy_is_the_model_with_both_requests(toys, requests, efface, tmp_path, dtype):
    base = shutil.copytree(toys / "model", tmp_path / "base")
    stored = AutoModelForImageClassification.from_pretrained(base, dtype=dtype)
    stored.save_pretrained(base)
    told = efface(
        "export", requests[1], "--as", "transformers", "--model", base, "--out", tmp_path / "copy"
    )
    assert told.code == 0, told.err
    wanted, model = in_force(toys, requests[1])
    copied = AutoModelForImageClassification.from_pretrained(tmp_path / "copy")
    assert copied.dtype == dtype
    near = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(logits(copied.float(), model), wanted, atol=near, rtol=0)
    for name in ("config.json", "preprocessor_config.json"):
        assert (tmp_path / "copy" / name).read_text() == (base / name).read_text()
    again = efface(
        "export", requests[1], "--as", "transformers", "--model", tmp_path / "copy", "--out",
        tmp_path / "twice",
    )  # fmt: skip
    assert (again.code, "is merged into" in again.err) == (2, True)


@pytest.mark.thorough
def test_a_recogniser_is_exported_both_ways(toys, efface, tmp_path):
    peft = pytest.importorskip("peft")
    root, model = tmp_path, fresh("recogniser")
    save(model, root / "model")
    write(stripes(model.labels), root / "train")
    assert efface(*erase(root, root / "run", model.labels[0])).code == 0
    wanted, model = in_force(root, root / "run")
    for kind in ("peft", "transformers"):
        told = efface("export", root / "run", "--as", kind, "--out", root / kind)
        assert told.code == 0, told.err
    loaded = peft.PeftModel.from_pretrained(package.load(root / "model").model, root / "peft")
    torch.testing.assert_close(logits(loaded, model), wanted, atol=1e-5, rtol=1e-5)
    copied = package.load(root / "transformers")
    torch.testing.assert_close(logits(copied.model, model), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.thorough
def test_a_change_of_everything_is_no_adapter(toys, efface, tmp_path):
    assert efface(*erase(toys, tmp_path / "run", method="fine_tune")).code == 0
    for more in ((), ("--rank", "2")):
        told = efface("export", tmp_path / "run", "--as", "peft", "--out", tmp_path / "x", *more)
        assert told.code == 2
        assert "export the edited folder: --as transformers" in told.err
    told = efface("export", tmp_path / "run", "--as", "kohya", "--out", tmp_path / "x")
    assert (told.code, "kohya is for models that draw" in told.err) == (2, True)


@pytest.mark.thorough
def test_dense_matrices_are_refused_or_cut(toys, efface, tmp_path):
    """The same change, without biases: peft takes it cut to a rank, whole where that is full."""
    assert efface(*erase(toys, tmp_path / "run", method="fine_tune")).code == 0
    delta = runs.open_run(tmp_path / "run").delta
    key = next(key for key in delta.keys if key.endswith("fc1.weight"))
    told = replace(delta.provenance, base_sketch={key: delta.provenance.base_sketch[key]})
    one = replace(delta, patches={key: delta.patches[key]}, provenance=told)
    assert isinstance(one.patches[key], DensePatch)
    model = package.load(toys / "model")
    with pytest.raises(BadRequest, match=r"--rank N .* --as transformers"):
        layers_of(one, model)
    assert 0 < layers_of(one, model, rank=2).lost < 1
    assert layers_of(one, model, rank=16).lost < 1e-6


@pytest.mark.thorough
def test_every_verb_works_on_requests_in_turn(toys, requests, efface, tmp_path):
    first, second = requests
    assert "equal" in efface("rerun", second).out
    assert efface("verify", second).code == 0
    told = efface("evaluate", second)
    assert (told.code, "--test-data FOLDER" in told.err) == (2, True)
    measured = efface("evaluate", second, "--test-data", toys / "test", "--json").json
    assert measured["verdict"] == "valid", measured["reasons"]
    assert efface("verify", second).code == 0
    told = efface(
        "revoke", first, "--of", second, "--test-data", toys / "test", "--out", tmp_path / "left",
        "--json",
    )  # fmt: skip
    assert told.json["verdict"] == "valid"
    left = runs.open_run(tmp_path / "left").delta
    erased = [one["concept"]["name"] for one in left.provenance.request["erasures"]]
    assert erased == ["class 1"]
    assert "equal" in efface("rerun", tmp_path / "left").out


def test_a_request_alone_is_refused_without_its_parent(toys, requests):
    delta = runs.open_run(requests[1]).delta
    model = package.load(toys / "model")
    with pytest.raises(BadDelta, match="which this model lacks"), delta.apply(model):
        pass


def test_plans_count_what_is_trained(toys, efface):
    network = package.load(toys / "model").model
    pairs = [weight for name, weight in network.named_parameters() if "fc" in name]
    matrices = [weight for weight in pairs if weight.ndim == 2]
    words = ("--model", toys / "model", "--concept", "class 0", "--json")
    told = efface("plan", "gs_lora", *words, "--rank", "3").json
    assert told["parameters"] == sum(weight.numel() for weight in matrices)
    assert told["added"] == 3 * sum(sum(weight.shape) for weight in matrices)
    whole = efface("plan", "fine_tune", *words).json
    assert (whole["parameters"], whole["share"]) == (
        sum(weight.numel() for weight in network.parameters()), 1.0,
    )  # fmt: skip
    told = efface("plan", "uce", *words)
    assert told.code == 2


def test_models_are_listed(efface):
    assert "icons-vit" in efface("list", "models").out


DRAWING = {
    "apply": "apply {run} --prompt x --out {out}.png",
    "generate": "generate --model {model} --prompt x --out {out}.png",
    "attack": "attack {run} --with soft_prompt",
    "matrix": "matrix --model {model} --out {out}",
    "ledger": "ledger add {out} --id a --model {model} --concept x",
    "transfer": "transfer {run} --model {model} --out {out}",
    "import": "import {model}/model.safetensors --model {model} --concept x --out {out}",
    "debias": "debias --model {model} --concept x --out {out}",
}


@pytest.mark.parametrize("verb", DRAWING)
def test_what_draws_is_refused_in_one_line(toys, requests, efface, tmp_path, verb):
    places = {"run": requests[0], "model": toys / "model", "out": tmp_path / "out"}
    told = efface(*(word.format(**places) for word in DRAWING[verb].split()))
    assert told.code == 2
    assert f"draws none, so efface {verb} has nothing to do with it" in told.err
    assert told.err.count("\n") == 1


def test_an_edited_copy_in_place_names_the_export(toys, requests, efface, tmp_path):
    told = efface("apply", requests[0], "--in-place-copy", tmp_path / "copy")
    assert (told.code, "--as transformers" in told.err) == (2, True)


FLAGS = {
    "--anchor x": "--anchor is for models that draw",
    "--images x": "--images is for models that draw",
    "--keep x": "--keep is for models that draw",
    "--smoke": "--smoke is for models that draw",
    "--preview 2": "--preview is for models that draw",
    "--size short": "--size short says how many pictures are drawn",
    "--test-data nowhere": "there is no folder of pictures at nowhere",
    "--concept clas-0": "the model's head has no class 'clas-0'; did you mean class 0",
    "--forget-data {empty}": "holds no picture",
    "--forget-data {broken}": "cannot be read",
    "--forget-data {strange}": "the pictures are of class 9, which the model's head of 6 classes",
    "--forget-data {shared}": "2 pictures are both among those to forget and",
    "--forget-data {other}": "there is no picture of what is to be forgotten",
    "--model {bare}": "has no preprocessor_config.json",
}


@pytest.mark.parametrize("flags", FLAGS)
def test_bad_input_is_one_line(toys, efface, tmp_path, flags):
    places = {name: tmp_path / name for name in ("empty", "broken", "strange", "shared", "other")}
    for place in places.values():
        place.mkdir()
    pictures = stripes(knowing().labels)
    shutil.copytree(write(pictures, tmp_path / "own", classes=[1], most=2) / "class 1",
                    places["shared"] / "class 0")  # fmt: skip
    shutil.copytree(tmp_path / "own" / "class 1", places["strange"] / "class 9")
    shutil.copytree(tmp_path / "own" / "class 1", places["other"] / "class 2")
    (places["broken"] / "class 0").mkdir()
    (places["broken"] / "class 0" / "x.png").write_text("no picture")
    bare = shutil.copytree(toys / "model", tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    added = flags.format(**places, bare=bare).split(" ", 1)
    words = erase(toys, tmp_path / "run")
    if added[0] == "--concept":
        words[words.index("class 0")] = added[1]
    elif added[0] == "--model":
        words[words.index(toys / "model")] = added[1]
    else:
        words += added
    told = efface(*words)
    assert told.code == 2
    assert FLAGS[flags] in told.err
    assert told.err.strip().count("\n") == 0
    assert not (tmp_path / "run" / "delta.safetensors").exists()


@pytest.mark.parametrize("flag", ["--retain-data", "--forget-data", "--test-data"])
def test_pictures_of_classes_are_refused_for_generators(model, toys, efface, tmp_path, flag):
    told = efface(
        "erase", "uce", "--model", model, "--concept", "x", flag, toys / "train", "--out",
        tmp_path / "run",
    )  # fmt: skip
    assert (told.code, f"{flag} is for models that read them" in told.err) == (2, True)


def test_instruments_of_generators_are_refused(toys, requests, efface):
    told = efface("evaluate", requests[0], "--test-data", toys / "test", "--judge", "emoji")
    assert (told.code, "--judge is for models that draw" in told.err) == (2, True)


def test_methods_are_refused_for_the_other_kind_of_model(model, toys, efface, tmp_path):
    told = efface(*erase(toys, tmp_path / "a", method="uce")[:6], "--out", tmp_path / "a")
    assert (told.code, "uce does not edit image classifiers; " in told.err) == (2, True)
    words = ("erase", "gs_lora", "--model", model, "--concept", "x", "--out", tmp_path / "b")
    told = efface(*words)
    assert (told.code, "gs_lora edits models that read pictures, and" in told.err) == (2, True)
    assert "loading" not in told.err
    told = efface(*("icons-vt" if word == model else word for word in words))
    assert (told.code, "did you mean icons-vit?" in told.err) == (2, True)


@pytest.mark.thorough
def test_fewer_pictures_than_a_batch_and_half_precision_work(toys, efface, tmp_path):
    shutil.copytree(toys / "model", tmp_path / "model")
    half = AutoModelForImageClassification.from_pretrained(toys / "model", dtype=torch.float16)
    half.save_pretrained(tmp_path / "model")
    write(stripes(knowing().labels), tmp_path / "train", most=1)
    assert efface(*erase(tmp_path, tmp_path / "run")).code == 0
    assert "equal" in efface("rerun", tmp_path / "run").out
