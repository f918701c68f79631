"""A plan tells encoders of another model from a denoiser's own, in every family."""

import json

import pytest

from efface.errors import BadModel
from efface.hosts.survey import survey
from tests.conftest import host


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl", "sd3", "flux", "pixart"])
def saved(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param) / "model"
    host(f"tiny_{request.param}").save_pretrained(place)
    return request.param, place


def encoders(place):
    return sorted(each.name for each in place.iterdir() if each.name.startswith("text_encoder"))


def test_every_encoder_counts(saved):
    family, place = saved
    assert survey(place).family == family
    for name in encoders(place):
        file = place / name / "config.json"
        before = file.read_text()
        config = json.loads(before)
        projected = "projection_dim" in config and family == "sd3"
        field = "projection_dim" if projected else "hidden_size"
        field = "d_model" if "d_model" in config else field
        file.write_text(json.dumps({**config, field: config[field] + 8}))
        try:
            with pytest.raises(BadModel, match=r"reads \d+ values and the text encoders \(.*give"):
                survey(place)
        finally:
            file.write_text(before)


def test_sd3_without_t5_is_filled_up(tmp_path):
    pipe = host("tiny_sd3")
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.save_pretrained(tmp_path)
    assert len(survey(tmp_path).encoders) == 2
