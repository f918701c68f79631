"""The picture store: content-addressed, independent of batches, whole after any interruption."""

import numpy as np
import pytest
import torch

from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.drawing import draw
from efface.evaluation.identity import changes, fingerprints, model_id
from efface.evaluation.images import ImageStore, Source
from efface.hosts.families import tiny_pipeline
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
    with pytest.raises(BadRequest, match="No space left"):
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
