"""What batch norms learn, as a change of their weights under the old statistics."""

import pytest
import torch
from torch import nn

from efface.errors import BadModel
from efface.methods.retrain import Retrain
from efface.training.batch_norms import new_statistics
from tests.conformance.test_forgetting import asked
from tests.pictures import knowing


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network():
    """Two norms, with weights and statistics that are not those of a new one."""
    layer = nn.utils.skip_init(nn.Linear, 3, 4)
    with torch.no_grad():
        layer.weight.copy_(drawn(4, 3))
        layer.bias.copy_(drawn(4))
    made = nn.Sequential(nn.BatchNorm1d(3), layer, nn.BatchNorm1d(4)).eval()
    for place, norm in ((0, made[0]), (2, made[2])):
        with torch.no_grad():
            norm.weight.copy_(1 + 0.3 * drawn(norm.num_features, seed=place + 1))
            norm.bias.copy_(drawn(norm.num_features, seed=place + 2))
            norm.running_mean.copy_(drawn(norm.num_features, seed=place + 3))
            norm.running_var.copy_(0.5 + drawn(norm.num_features, seed=place + 4).abs())
    return made


def test_the_old_statistics_do_what_the_new_ones_did():
    made, seen = network(), 5 + 2 * drawn(64, 3)
    before = {name: value.clone() for name, value in made.named_buffers()}
    old = made(seen)
    with new_statistics(made):
        for _ in range(40):
            made(seen)
        made.eval()
        wanted = made(seen)
    torch.testing.assert_close(made(seen), wanted)
    assert (made(seen) - old).abs().max() > 1
    for name, value in made.named_buffers():
        assert torch.equal(value, before[name]), name
    assert not made[0].training


def test_an_error_leaves_all_as_it_was():
    made = network()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    with pytest.raises(ZeroDivisionError), new_statistics(made):
        made(drawn(8, 3))
        raise ZeroDivisionError
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_a_norm_without_weights_is_refused():
    with (
        pytest.raises(BadModel, match="batch norm 0 has no weights"),
        new_statistics(nn.Sequential(nn.BatchNorm1d(3, affine=False))),
    ):
        pass


@pytest.mark.thorough
def test_a_network_of_batch_norms_is_retrained():
    """The delta alone, with the statistics of before, recognises what is retained."""
    model = knowing("classifier", "ResNetForImageClassification")
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    method = Retrain(epochs=10.0, batch=12, learning_rate=1e-2)
    made = method.erase(model, asked(model), generator=torch.Generator().manual_seed(0))
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any("running" in key for key in made.delta.keys)
    pictures = asked(model).retain_data
    gone = {model.labels.index(each.concept.name) for each in asked(model).erasures}
    pixels = model.prepared(pictures.read(range(len(pictures))))
    with made.delta.apply(model), torch.no_grad():
        right = model.model(pixel_values=pixels).logits.argmax(1) == pictures.labels
    erased = torch.isin(pictures.labels, torch.tensor(sorted(gone)))
    assert right[~erased].float().mean() > 0.9
    assert not right[erased].any()
