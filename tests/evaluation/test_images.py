"""The picture store: content-addressed, independent of batches, whole after any interruption."""

import numpy as np
import pytest
import torch
from peft import LoraConfig
from PIL import Image, PngImagePlugin

import efface
from efface import registry
from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.drawing import draw
from efface.evaluation.identity import changes, fingerprints, model_id
from efface.evaluation.images import ImageStore, Source
from efface.evaluation.pictures import read_picture
from efface.hosts.families import tiny_pipeline
from efface.memory import MemoryRanOut
from tests.conftest import host

from .conftest import KEY, STEPS, small_suite

SOURCE = Source("model", None, STEPS, 2.0)


def test_the_same_seed_gives_the_same_picture_in_any_batch(toy):
    samples = small_suite().samples
    together = draw(toy, samples, steps=STEPS, guidance=2.0).pixels.astype(int)
    alone = [draw(toy, [sample], steps=STEPS, guidance=2.0).pixels[0] for sample in samples]
    assert np.abs(together - np.stack(alone)).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 1  # another seed is another picture


def test_network_evaluations_are_counted_per_picture(toy):
    samples = small_suite().samples[:3]
    assert draw(toy, samples, steps=STEPS, guidance=2.0).evaluations == 2 * STEPS
    assert draw(toy, samples, steps=STEPS, guidance=1.0).evaluations == STEPS


@pytest.mark.parametrize(("family", "evaluations"), [("sdxl", 2), ("sd3", 2), ("flux", 1)])
def test_other_families_draw_and_are_counted(family, evaluations):
    """FLUX is guided by an input of its transformer, so that a step counts once."""
    drawn = draw(host(f"tiny_{family}"), small_suite().samples[:1], steps=1, guidance=2.0)
    assert drawn.evaluations == evaluations
    assert drawn.pixels.std() > 0


def test_the_global_random_state_is_not_touched(toy):
    state = torch.get_rng_state()
    draw(toy, small_suite().samples[:1], steps=STEPS, guidance=2.0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_blackened_picture_is_not_an_erased_concept(pipe):
    class Blackening(type(pipe)):
        def __call__(self, **given):
            output = super().__call__(**given)
            output.nsfw_content_detected = [True]
            return output

    with pytest.raises(MeasurementFailed, match="safety_checker=None"):
        draw(Blackening(pipe._pipe), small_suite().samples[:1], steps=STEPS, guidance=2.0)


def test_pictures_that_are_not_finite_are_refused():
    broken = tiny_pipeline(seed=3)
    with torch.no_grad():
        broken.unet.conv_out.bias.fill_(torch.nan)
    with pytest.raises(MeasurementFailed, match="not finite"):
        draw(broken, small_suite().samples[:1], steps=STEPS, guidance=2.0)


def test_a_store_draws_only_what_it_lacks(pipe, tmp_path):
    store = ImageStore(tmp_path, batch_size=4)
    samples = small_suite().samples
    assert store.fill(pipe, SOURCE, samples[:2]) == 2
    assert store.fill(pipe, SOURCE, samples) == 4
    assert store.fill(pipe, SOURCE, samples) == 0
    assert pipe.calls == 2
    spent = store.spent(SOURCE, samples)
    assert (spent.pictures, spent.evaluations) == (6, 6 * 2 * STEPS)


def test_a_damaged_picture_is_drawn_again(pipe, tmp_path):
    store = ImageStore(tmp_path)
    samples = small_suite().samples[:2]
    store.fill(pipe, SOURCE, samples)
    path = store.path(SOURCE, samples[0])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert store.missing(SOURCE, samples) == samples[:1]
    store.fill(pipe, SOURCE, samples)
    assert store.load(SOURCE, samples).shape[0] == 2


def test_loaded_pixels_are_those_that_were_drawn(toy, tmp_path):
    store = ImageStore(tmp_path)
    sample = small_suite().samples[0]
    store.fill(toy, SOURCE, [sample])
    drawn = draw(toy, [sample], steps=STEPS, guidance=2.0).pixels[0]
    loaded = store.load(SOURCE, [sample])[0]
    assert torch.equal((loaded * 255).round().byte().permute(1, 2, 0), torch.from_numpy(drawn))


def test_a_missing_picture_is_an_error(tmp_path):
    with pytest.raises(MeasurementFailed, match="cannot be read"):
        ImageStore(tmp_path).load(SOURCE, small_suite().samples[:1])


def test_a_full_disk_leaves_the_drawn_pictures(pipe, tmp_path, monkeypatch):
    store = ImageStore(tmp_path, batch_size=1)
    samples = small_suite().samples[:2]
    store.fill(pipe, SOURCE, samples[:1])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BadRequest, match="no space is left"):
        store.fill(pipe, SOURCE, samples)
    assert store.missing(SOURCE, samples) == samples[1:]
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file()) == [".png"]


def test_a_source_is_named_by_everything_pictures_depend_on():
    other = [
        Source("other", None, STEPS, 2.0),
        Source("model", "delta", STEPS, 2.0),
        Source("model", None, STEPS + 1, 2.0),
        Source("model", None, STEPS, 2.5),
    ]
    assert len({SOURCE.key, *(source.key for source in other)}) == 5
    assert Source("model", None, STEPS, 2).key == SOURCE.key  # 2 and 2.0 are one number


def test_a_model_is_named_by_its_content(toy, delta):
    same, other = tiny_pipeline(), tiny_pipeline(seed=1)
    hashes = fingerprints(toy)
    name = model_id(toy, hashes)
    assert model_id(same, fingerprints(same)) == name
    assert model_id(other, fingerprints(other)) != name
    with delta.apply(toy):
        after = fingerprints(toy)
        assert model_id(toy, after) != name
        assert [change.key for change in changes(toy, hashes, after)] == [KEY]
    same.scheduler = type(same.scheduler).from_config(same.scheduler.config, beta_end=0.02)
    assert model_id(same, hashes) != name


def _tampered(kind, path, other):
    """Puts something else in a picture's place, with its note where that is possible."""
    if kind == "a link":
        path.unlink()
        path.symlink_to(other)
    elif kind == "another picture":
        path.write_bytes(other.read_bytes())
    elif kind == "cut short":
        path.write_bytes(path.read_bytes()[:-60])
    elif kind == "no picture":
        path.write_bytes(b"nothing")
    else:
        with Image.open(path) as image:
            texts = PngImagePlugin.PngInfo()
            texts.add_text("efface", image.text["efface"])
            black = Image.new("RGB", image.size)
        black.save(path, pnginfo=texts if kind == "black with the note" else None)


@pytest.mark.parametrize(
    "kind",
    ["black", "black with the note", "another picture", "a link", "cut short", "no picture"],
)
def test_what_is_not_the_picture_that_was_drawn_is_drawn_anew(kind, pipe, tmp_path):
    store = ImageStore(tmp_path)
    samples = small_suite().samples[:2]
    store.fill(pipe, SOURCE, samples)
    before = store.load(SOURCE, samples)
    first, second = (store.path(SOURCE, one) for one in samples)
    _tampered(kind, first, second)
    assert store.foreign(SOURCE, samples) == store.missing(SOURCE, samples) == samples[:1]
    with pytest.raises(MeasurementFailed):
        store.load(SOURCE, samples)
    assert store.fill(pipe, SOURCE, samples) == 1
    assert torch.equal(store.load(SOURCE, samples), before)
    assert not first.is_symlink()
    assert store.path(SOURCE, samples[1]).is_file()


def test_pictures_of_another_model_are_not_taken(pipe, tmp_path):
    """The base's picture, whole and with its note, in place of the edited model's."""
    store, edited = ImageStore(tmp_path), Source("model", "delta", STEPS, 2.0)
    samples = small_suite().samples[:1]
    store.fill(pipe, SOURCE, samples)
    place = store.path(edited, samples[0])
    place.parent.mkdir()
    place.write_bytes(store.path(SOURCE, samples[0]).read_bytes())
    assert store.missing(edited, samples) == samples


def test_a_linked_folder_is_refused(pipe, tmp_path):
    store, edited = ImageStore(tmp_path), Source("model", "delta", STEPS, 2.0)
    store.fill(pipe, SOURCE, small_suite().samples[:1])
    (tmp_path / edited.key).symlink_to(tmp_path / SOURCE.key)
    with pytest.raises(BadRequest, match="is a link, so pictures would be written into"):
        store.fill(pipe, edited, small_suite().samples[:1])


def test_a_picture_bomb_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side in (12, 64):  # above the limit a warning, above twice the limit an error
        Image.new("RGB", (side, side)).save(tmp_path / "bomb.png")
        with pytest.raises(MeasurementFailed, match="larger than any model draws"):
            read_picture(tmp_path / "bomb.png")


def test_a_batch_that_does_not_fit_is_drawn_in_parts(pipe, tmp_path):
    sizes = []

    class Small(type(pipe)):
        def __call__(self, **given):
            sizes.append(len(given["prompt"]))
            if len(given["prompt"]) > 2:
                raise RuntimeError("could not create a primitive")
            return super().__call__(**given)

    store = ImageStore(tmp_path)
    samples = small_suite().samples
    assert store.fill(Small(pipe._pipe), SOURCE, samples) == 6
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    assert store.missing(SOURCE, samples) == ()


def test_a_picture_that_does_not_fit_is_one_line(pipe, tmp_path):
    class Tiny(type(pipe)):
        def __call__(self, **given):
            raise MemoryError

    with pytest.raises(MemoryRanOut, match="while drawing one picture"):
        ImageStore(tmp_path).fill(Tiny(pipe._pipe), SOURCE, small_suite().samples)


@pytest.mark.thorough
def test_a_model_is_named_by_what_lies_beside_its_weights():
    pipe = tiny_pipeline()
    names = [model_id(pipe, fingerprints(pipe))]
    hashes = fingerprints(pipe)

    def named(change):
        change()
        names.append(model_id(pipe, hashes))

    named(lambda: pipe.enable_freeu(s1=0.2, s2=0.2, b1=2.0, b2=2.0))
    pipe.disable_freeu()
    handle = pipe.unet.conv_out.register_forward_hook(lambda module, given, output: 0.5 * output)
    names.append(model_id(pipe, hashes))
    handle.remove()
    named(lambda: pipe.scheduler.register_to_config(beta_end=0.02))
    named(lambda: pipe.vae.enable_tiling())
    named(lambda: pipe.tokenizer.add_tokens(["<thing>"]))
    named(lambda: setattr(pipe.unet.mid_block.attentions[0], "factor", 0.3))
    pipe.unet.register_buffer("shift", torch.ones(2))
    named(lambda: None)
    assert len(set(names)) == len(names)
    fresh = tiny_pipeline()
    draw(fresh, small_suite().samples[:1], steps=STEPS, guidance=2.0)
    assert model_id(fresh, fingerprints(fresh)) == names[0]  # drawing changes nothing


@pytest.mark.thorough
def test_scales_of_adapters_and_gated_deltas_name_a_model():
    pipe = tiny_pipeline()
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "a")
    first = model_id(pipe, fingerprints(pipe))
    pipe.unet.set_adapters("a", 0.2)
    assert model_id(pipe, fingerprints(pipe)) != first
    clean = tiny_pipeline()
    before = model_id(clean, fingerprints(clean))
    gate = spm_delta(clean)
    with gate.apply(clean):
        inside = model_id(clean, fingerprints(clean))
        draw(clean, small_suite().samples[:1], steps=STEPS, guidance=2.0)
        assert model_id(clean, fingerprints(clean)) == inside != before
    assert model_id(clean, fingerprints(clean)) == before


def spm_delta(pipe):
    """A short training of membranes; what they learned does not matter."""
    settings = {"steps": 1, "batch": 1, "sampling_steps": 2, "trajectories": 1}
    method = registry.build("methods", "spm", learning_rate=1e-2, **settings)
    wanted = efface.request("pistol", keep=["cat"])
    return method.erase(pipe, wanted, generator=torch.Generator().manual_seed(0)).delta
