"""The bundled detector finds things in held-out scenes."""

import pytest
import torch

import efface
from efface.bundled.icon_scenes import scenes
from efface.evaluation.detection import DetectedBoxes, TrueBoxes, score_detections
from efface.hosts.detector import Detector


@pytest.mark.thorough
def test_things_in_held_out_scenes_are_found():
    model, pictures = efface.load("icons-detector"), scenes("test", count=60)
    host, read = Detector(model), pictures.scenes(range(60))
    with torch.no_grad():
        found = host.found(host.detect(model.prepared([each.pixels for each in read])))
    detected = [DetectedBoxes(each.boxes, each.scores, each.classes) for each in found]
    true = [TrueBoxes(each.boxes, each.classes) for each in read]
    scores = score_detections(detected, true, classes=16)
    assert scores.mean_ap50(range(16)).value > 0.7
