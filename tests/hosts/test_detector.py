"""Detectors of every class at toy size: answers, features, what is found, deltas and gradients."""

import pytest
import torch

from efface.errors import BadModel
from efface.hosts.detector import Detector
from efface.hosts.matching import Detections

ARCHITECTURES = tuple(Detector.heads)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def host(request):
    return Detector(Detector.toy(request.param, classes=5))


def pixels(host, count=2):
    generator = torch.Generator().manual_seed(5)
    pictures = [torch.rand(3, 20, 30, generator=generator) for _ in range(count)]
    return host.model.prepared(pictures)


def test_logits_are_what_the_head_makes_of_the_features(host):
    found = host.detect(pixels(host))
    head = host.network.get_submodule(host.reader)
    assert torch.equal(head(found.features), found.logits)
    assert torch.equal(host.features(pixels(host)), found.features)
    assert host.reader in host.head
    answer = host.network(pixel_values=pixels(host))
    assert torch.equal(answer.logits, found.logits)
    assert torch.equal(answer.pred_boxes, found.boxes)


def test_shapes_and_probabilities(host):
    found = host.detect(pixels(host))
    assert found.boxes.shape == (2, 8, 4)
    chances = host.probabilities(found.logits)
    assert chances.shape == (2, 8, host.classes) == (2, 8, 5)
    assert ((chances > 0) & (chances < 1)).all()
    assert ((found.boxes >= 0) & (found.boxes <= 1)).all()


def test_a_step_down_the_loss_lowers_it(host):
    scenes = [Drawn(1), Drawn(3)]
    weights = [weight.requires_grad_() for weight in host.weights(head=False).values()]
    try:
        before = host.losses(host.detect(pixels(host)), scenes)
        gradients = torch.autograd.grad(before.total, weights, allow_unused=True)
        step = 1e-3 / sum(each.norm() ** 2 for each in gradients if each is not None).sqrt()
        move(weights, gradients, -step)
        after = host.losses(host.detect(pixels(host)), scenes)
        move(weights, gradients, step)
    finally:
        host.network.requires_grad_(requires_grad=False)
    assert after.total < before.total


class Drawn:
    """So many things in a row, of classes in turn."""

    def __init__(self, count):
        centres = torch.linspace(0.2, 0.8, count)
        self.boxes = torch.stack([torch.tensor([float(x), 0.5, 0.2, 0.3]) for x in centres])
        self.classes = torch.arange(count)


@torch.no_grad()
def move(weights, gradients, step):
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is not None:
            weight += step * gradient


def test_what_is_found_comes_surest_first():
    """Softmax: one class a query. Logarithms of the probabilities are the logits."""
    host = Detector(Detector.toy(classes=2))
    chances = torch.tensor([[[0.2, 0.3, 0.5], [0.7, 0.1, 0.2], [0.0, 0.05, 0.95]]])
    boxes = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))
    answer = Detections(chances.clamp_min(1e-9).log(), boxes, torch.zeros(1, 3, 2))
    (found,) = host.found(answer)
    assert found.classes.tolist() == [0, 1, 1]
    assert found.scores.tolist() == pytest.approx([0.7, 0.3, 0.05])
    assert torch.equal(found.boxes, boxes[0, [1, 0, 2]])
    assert len(host.found(answer, floor=0.2)[0].scores) == 2
    assert len(host.found(answer, most=1)[0].scores) == 1


def test_sigmoids_may_find_two_classes_in_one_place():
    host = Detector(Detector.toy("DeformableDetrForObjectDetection", classes=2))
    chances = torch.tensor([[[0.6, 0.8], [0.1, 0.7]]])
    boxes = torch.rand(1, 2, 4, generator=torch.Generator().manual_seed(0))
    (found,) = host.found(Detections(chances.logit(), boxes, torch.zeros(1, 2, 2)), floor=0.5)
    assert found.classes.tolist() == [1, 1, 0]
    assert torch.equal(found.boxes, boxes[0, [0, 1, 0]])


def test_two_stages_read_the_last_layers_head_and_leave_out_the_proposals():
    model = Detector.toy("DeformableDetrForObjectDetection")
    config = type(model.config)(**model.config.to_dict() | TWO_STAGES)
    with torch.random.fork_rng():
        network = type(model.model)(config).eval()
    model.model = network
    host = Detector(model)
    found = host.detect(pixels(host))
    assert host.reader == "class_embed.1"
    assert torch.equal(network.get_submodule(host.reader)(found.features), found.logits)


TWO_STAGES = {"two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 8}


def test_a_real_time_detector_with_softmax_is_refused():
    model = Detector.toy("RTDetrForObjectDetection")
    model.config.use_focal_loss = False
    with pytest.raises(BadModel, match="has use_focal_loss off"):
        _ = Detector(model).terms


def test_deformable_detr_of_full_size_has_the_papers_count_of_lora_parameters():
    """Twelve blocks of d = 256 and h = 1,024 at rank 8: 12 x 2 x 8 x (256 + 1,024) = 245,760."""
    model = Detector.toy("DeformableDetrForObjectDetection")
    wide = {"d_model": 256, "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024}
    layers = {"encoder_layers": 6, "decoder_layers": 6}
    config = type(model.config)(**model.config.to_dict() | wide | layers)
    with torch.device("meta"):
        model.model = type(model.model)(config)
    host = Detector(model)
    layers = [host.network.get_submodule(path) for pair in host.feed_forward for path in pair[1:]]
    assert len(host.feed_forward) == 12
    assert sum(8 * sum(layer.weight.shape) for layer in layers) == 245_760
