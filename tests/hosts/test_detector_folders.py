"""Detectors from folders that transformers saved, with their image processors."""

import json

import pytest
import torch
import transformers

from efface.errors import BadModel
from efface.hosts.detector import Detector
from efface.hosts.families import layout
from efface.hosts.vision_families import load_vision, vision_host

PROCESSORS = {
    "DetrForObjectDetection": "DetrImageProcessorPil",
    "YolosForObjectDetection": "YolosImageProcessorPil",
    "DeformableDetrForObjectDetection": "DeformableDetrImageProcessorPil",
    "RTDetrForObjectDetection": "RTDetrImageProcessorPil",
}
FIXED = {"height": 32, "width": 32}


def saved(folder, architecture="YolosForObjectDetection", size=FIXED, **settings):
    model = Detector.toy(architecture)
    model.model.save_pretrained(folder)
    processor = getattr(transformers, PROCESSORS[architecture])
    processor(size=size, **settings).save_pretrained(folder)
    return model


def pictures(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


@pytest.mark.parametrize("architecture", PROCESSORS)
def test_a_saved_detector_answers_as_before(architecture, tmp_path):
    before = Detector(saved(tmp_path, architecture))
    model = load_vision(tmp_path)
    host = vision_host(model)
    assert isinstance(host, Detector)
    assert layout(model) == layout(before.model) == "detector"
    assert model.labels == before.model.labels
    pixels = model.prepared(pictures((40, 20), (64, 64)))
    for one, two in zip(host.detect(pixels), before.detect(pixels), strict=True):
        assert torch.equal(one, two)


def test_pictures_of_several_sizes_need_one_size_to_come_out(tmp_path):
    saved(tmp_path, size={"shortest_edge": 32, "longest_edge": 64})
    model = load_vision(tmp_path)
    assert model.prepared(pictures((32, 48), (32, 48))).shape == (2, 3, 32, 48)
    with pytest.raises(BadModel, match="32 x 32 and 48 x 32 pixels, which are no one batch; set"):
        model.prepared(pictures((32, 48), (64, 64)))


def test_padding_to_one_size_is_refused(tmp_path):
    saved(tmp_path, pad_size=FIXED)
    with pytest.raises(BadModel, match="pads pictures to one size, so that boxes are no shares"):
        load_vision(tmp_path)


def test_a_detector_saved_without_its_head_is_refused(tmp_path):
    saved(tmp_path)
    network = Detector.toy().model.vit
    network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = ["YolosForObjectDetection"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadModel, match="lacks 12 weights, bbox_predictor"):
        load_vision(tmp_path)


def test_what_names_one_thing_a_picture_is_not_asked_of_a_detector():
    model = Detector.toy()
    with pytest.raises(BadModel, match="does not give a picture one name"):
        model.classify(pictures((32, 32)))
