"""What the lower levels do with weights, and that they leave the classifier as it was."""

import pytest
import torch

from efface import registry
from efface.errors import BadRequest
from efface.hosts.vision_families import vision_host
from efface.selection.lower import ByMethod, Retraining, SignDescent, borrowed
from efface.selection.pictures import PictureCandidates, nearest
from tests.pictures import CLASSES, knowing, stripes


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model():
    return knowing()


@pytest.fixture
def pictures(model):
    return stripes(model.labels, each=3)


def weights_after(model, lower, pictures, removed, *, start=None):
    host = vision_host(model)
    with lower.erased(host, pictures, removed, generator=generator(), start=start):
        return {name: value.clone() for name, value in model.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_every_weight_moves_by_the_rate_or_not_at_all(model, pictures):
    """One step of signs: the same size everywhere, whatever the gradient's."""
    lower = SignDescent(rate=0.25, epochs=1.0, batch=100)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    after = weights_after(model, lower, pictures, torch.zeros(18))
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before])
    sizes = moved.abs()
    assert ((sizes - 0.25).abs() < 1e-6).logical_or(sizes == 0).all()
    assert (sizes > 0).float().mean() > 0.5


def test_signs_do_not_depend_on_the_scale_of_the_weights(model, pictures):
    lower = SignDescent(rate=0.25, epochs=1.0, batch=100)
    none = weights_after(model, lower, pictures, torch.zeros(18, dtype=torch.float64))
    half = weights_after(model, lower, pictures, torch.full((18,), 0.5, dtype=torch.float64))
    everything = weights_after(model, lower, pictures, torch.ones(18, dtype=torch.float64))
    assert same(none, half)
    assert same(everything, model.model.state_dict())


def test_a_weight_of_one_is_as_if_the_picture_were_not_there(model, pictures):
    """The gradient of what is left is that of the left pictures alone."""
    host = vision_host(model)
    removed = torch.zeros(18)
    removed[:3] = 1
    lower = SignDescent(rate=0.25, epochs=1.0, batch=100)
    without = weights_after(model, lower, pictures, removed)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    with borrowed(host.network):
        own = [each.requires_grad_() for each in host.network.parameters()]
        pixels = model.prepared(pictures.read(range(3, 18)))
        loss = host.losses(host.logits(pixels), pictures.labels[3:]).sum()
        gradients = torch.autograd.grad(loss, own, allow_unused=True)
    named = dict(zip((name for name, _ in host.network.named_parameters()), gradients, strict=True))
    for name, gradient in named.items():
        if gradient is not None:
            clear = gradient.abs() > 1e-6  # Signs of rounding are anybody's.
            step = (before[name] - without[name])[clear]
            torch.testing.assert_close(step, 0.25 * gradient[clear].sign(), atol=1e-6, rtol=0)


def test_signs_have_no_derivative_by_the_weights_and_plain_descent_has():
    """Through one unrolled step, theta depends on w with descent and not with signs."""
    theta = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    points = torch.tensor([[0.3, 1.0], [2.0, -1.0], [-1.0, 0.7]], dtype=torch.float64)
    removed = torch.full((3,), 0.5, dtype=torch.float64, requires_grad=True)
    loss = ((1 - removed) * (points @ theta - 1).square()).sum()
    (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
    (plain,) = torch.autograd.grad((theta - 0.1 * gradient).sum(), removed, retain_graph=True)
    (signs,) = torch.autograd.grad((theta - 0.1 * gradient.sign()).sum(), removed)
    assert plain.abs().max() > 0.1
    assert not signs.any()


def test_warm_starts_go_on_and_the_model_comes_back(model, pictures):
    lower, removed = SignDescent(rate=0.01, epochs=1.0), torch.zeros(18)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    host = vision_host(model)
    with lower.erased(host, pictures, removed, generator=generator(), start=None) as state:
        first = {name: value.clone() for name, value in state.items()}
    assert same(before, model.model.state_dict())
    again = weights_after(model, lower, pictures, removed, start=first)
    assert not same(again, first)


@pytest.mark.thorough
def test_retraining_knows_nothing_of_what_it_did_not_see(model, pictures):
    candidates = PictureCandidates(model, pictures, Retraining(epochs=30.0, rate=1e-2), by="class")
    assert candidates.losses().max() < 0.5
    removed = torch.zeros(CLASSES, dtype=torch.float64)
    removed[2] = 1
    with candidates.erased(removed, generator=generator()):
        losses = candidates.losses()
    assert losses[2] > 2
    assert losses[[0, 1, 3, 4, 5]].max() < 0.7
    assert candidates.losses().max() < 0.5


def test_retraining_needs_something_to_train_on(model, pictures):
    candidates = PictureCandidates(model, pictures, Retraining())
    with (
        pytest.raises(BadRequest, match="nothing is left"),
        candidates.erased(torch.ones(18), generator=generator()),
    ):
        pass


@pytest.mark.thorough
@pytest.mark.parametrize("by", ["picture", "class"])
def test_any_method_that_forgets_pictures_is_a_lower_level(model, pictures, by):
    eraser = registry.build("methods", "random_labels", epochs=12.0, batch=8, learning_rate=5e-2)
    lower = ByMethod(eraser, by_class=by == "class")
    candidates = PictureCandidates(model, pictures, lower, by=by)
    removed = torch.zeros(len(candidates), dtype=torch.float64)
    removed[: 3 if by == "picture" else 1] = 1
    before = candidates.losses()
    with candidates.erased(removed, generator=generator()):
        assert candidates.losses()[0] > before[0] + 0.5
    assert torch.equal(candidates.losses(), before)
    with (
        pytest.raises(BadRequest, match="takes sets"),
        candidates.erased(removed / 2, generator=generator()),
    ):
        pass


def test_a_class_is_the_mean_of_its_pictures(model, pictures):
    by_picture = PictureCandidates(model, pictures, SignDescent())
    by_class = PictureCandidates(model, pictures, SignDescent(), by="class")
    expected = by_picture.losses().reshape(CLASSES, 3).mean(dim=1)
    torch.testing.assert_close(by_class.losses(), expected)
    assert by_class.names == model.labels
    assert by_picture.names[4] == f"{model.labels[1]} 4"


def test_pictures_must_be_of_the_heads_classes(model, pictures):
    few = type(pictures)(pictures.names[:3], pictures.labels[:9], pictures.pixels[:9])
    with pytest.raises(BadRequest, match="of 3 classes and the head has 6"):
        PictureCandidates(model, few, SignDescent())
    lacking = type(pictures)(pictures.names, pictures.labels[:9], pictures.pixels[:9])
    with pytest.raises(BadRequest, match=f"no picture of {pictures.names[3]}"):
        PictureCandidates(model, lacking, SignDescent(), by="class")


def test_neighbours_are_the_most_alike_and_not_oneself():
    rows = torch.nn.functional.normalize(torch.tensor([[1, 0.0], [1, 0.1], [0, 1.0], [1, 1.0]]))
    assert nearest(rows, torch.tensor([0, 2]), 2).tolist() == [[1, 3], [3, 1]]
