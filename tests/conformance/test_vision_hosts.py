"""What every model that reads pictures must do: answer, say what its head reads, and be edited."""

import pytest
import torch
import transformers
from torch import nn

from efface.deltas.delta import Delta
from efface.errors import BadModel, BadRequest
from efface.hosts.components import canonical, components, parameters
from efface.hosts.families import layout
from efface.hosts.vision import VisionModel, feed_forward_pairs
from efface.hosts.vision_families import VISION_HOSTS, load_vision, vision_host
from tests.cases import VISION_CASES
from tests.conformance.snapshots import differences, snapshot
from tests.deltas.toys import delta, dense, low_rank

CLASSES = 5


def kind_of(case):
    (kind,) = (each for each in VISION_HOSTS if each.key == case.kind)
    return kind


@pytest.fixture(params=VISION_CASES, ids=lambda case: case.architecture)
def case(request):
    return request.param


@pytest.fixture
def host(case):
    kind = kind_of(case)
    return kind(kind.toy(case.architecture, classes=CLASSES))


def pixels(host, count=2):
    generator = torch.Generator().manual_seed(5)
    return host.model.prepared([torch.rand(3, 20, 30, generator=generator) for _ in range(count)])


@torch.no_grad()
def answer(host, prepared):
    """Gives logits and features, whatever else the kind answers."""
    if host.key == "detector":
        found = host.detect(prepared)
        return found.logits, found.features
    return host.both(prepared)


def head_of(host):
    """Gives the module that made the logits."""
    path = host.reader if host.key == "detector" else host.head[0]
    assert path in host.head
    return host.network.get_submodule(path)


def test_every_class_of_networks_has_a_case_and_every_case_a_class():
    known = {(kind.key, name) for kind in VISION_HOSTS for name in kind.heads}
    assert {(case.kind, case.architecture) for case in VISION_CASES} == known
    assert len(VISION_CASES) == len(known)


def test_a_toy_is_of_its_kind_and_of_no_other(case, host):
    assert layout(host.model) == case.kind
    assert isinstance(vision_host(host.model), kind_of(case))
    assert [each.key for each in VISION_HOSTS if each.recognises(host.model)] == [case.kind]
    assert type(host.network).__name__ == case.architecture
    assert len(host.model.labels) == host.classes == CLASSES


def test_a_toy_depends_on_its_seed_and_on_nothing_else(case):
    first, again, other = (
        dict(kind_of(case).toy(case.architecture, seed=seed).model.named_parameters())
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(again[name], weight) for name, weight in first.items())
    assert any(not torch.equal(other[name], weight) for name, weight in first.items())


def test_logits_are_what_the_head_makes_of_the_features(host):
    before = snapshot(host.model)
    prepared = pixels(host)
    logits, features = answer(host, prepared)
    assert torch.equal(head_of(host)(features), logits)
    assert torch.equal(host.network(pixel_values=prepared).logits, logits)
    assert torch.equal(host.features(prepared), features)
    assert not differences(before, snapshot(host.model))


def test_a_batch_answers_as_its_pictures_do_alone(host):
    prepared = pixels(host, 3)
    together = answer(host, prepared)
    alone = [answer(host, prepared[[place]]) for place in range(3)]
    for part, joined in zip(together, map(torch.cat, zip(*alone, strict=True)), strict=True):
        torch.testing.assert_close(part, joined, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together[0][0], together[0][1], atol=1e-4)


def test_every_block_has_its_feed_forward_pair_or_a_method_is_refused(case, host):
    if not case.pairs:
        with pytest.raises(
            BadRequest, match="has no feed-forward layers in blocks; choose a metho"
        ):
            _ = host.feed_forward
        return
    assert len(host.feed_forward) == case.pairs
    for block, first, second in host.feed_forward:
        one, two = map(host.network.get_submodule, (first, second))
        assert one.weight.shape == two.weight.shape[::-1]
        assert one.weight.shape[0] != one.weight.shape[1]
        assert first.startswith(f"{block}.")
        assert second.startswith(f"{block}.")
        assert "att" not in first + second
        assert not any(f"{first}.".startswith(f"{each}.") for each in host.head)


def test_the_head_is_told_apart_from_the_rest(host):
    inner, every, own = host.weights(head=False), host.weights(), host.weights_of(host.head)
    assert own
    assert set(every) <= set(inner) | set(own)
    assert not {id(weight) for weight in own.values()} & {id(weight) for weight in inner.values()}
    assert set(every) <= {key for key, _ in parameters(host.model)}
    assert all(canonical(key) == key for key in every)


def test_last_layers_come_last_first(host):
    last = host.last_layers(2)
    modules = [path for path, _ in host.network.named_modules()]
    assert modules.index(last[0]) > modules.index(last[1])
    with pytest.raises(BadRequest, match=r"the last 9999 of \d+ layers were asked for"):
        host.last_layers(9999)


def test_a_head_of_another_class_is_no_host():
    with torch.device("meta"):
        linear = nn.Linear(2, 2)
    other = VisionModel(linear, lambda pictures: pictures, ("a", "b"))
    with pytest.raises(BadModel, match="a Linear is no model that reads pictures and that efface"):
        vision_host(other)


def layer_before_the_head(host):
    """Gives the key of the last layer that narrows in a block, or of the last convolution."""
    if feed_forward_pairs(host.network):
        return f"model/{canonical(host.feed_forward[-1].second)}.weight"
    return [key for key, weight in host.weights(head=False).items() if weight.ndim == 4][-1]


@pytest.mark.parametrize("patches", [dense, low_rank])
def test_deltas_fit_the_model_and_the_bare_network_and_come_off_exactly(host, patches, tmp_path):
    key = layer_before_the_head(host)
    weights = host.weights(head=False)
    if weights[key].ndim == 4 and patches is low_rank:
        return  # Kernels have dense patches.
    shape, before = weights[key].shape, snapshot(host.model)
    unedited = answer(host, pixels(host))[0]
    patch = dense(4, key, shape) if patches is dense else low_rank(4, key, *shape)
    delta(host.model, patch).save(tmp_path / "delta.safetensors")
    edit = Delta.load(tmp_path)
    with edit.apply(host.model):
        edited = answer(host, pixels(host))[0]
    assert not differences(before, snapshot(host.model))
    with edit.apply(host.network):
        again = answer(host, pixels(host))[0]
    assert not differences(before, snapshot(host.model))
    assert torch.equal(edited, again)
    assert not torch.equal(edited, unedited)
    assert set(components(host.model)) == set(components(host.network)) == {"model"}


def test_a_saved_folder_answers_as_before(host, tmp_path):
    host.network.save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    loaded = vision_host(load_vision(tmp_path))
    assert (loaded.key, loaded.model.labels) == (host.key, host.model.labels)
    prepared = pixels(host)
    for one, two in zip(answer(loaded, prepared), answer(host, prepared), strict=True):
        assert torch.equal(one, two)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(BadModel, match="has no preprocessor_config.json; save the model tog"):  # noqa: RUF043
        load_vision(tmp_path)


def lora_parameters(network, rank=8):
    """Counts what low-rank layers of a rank beside all feed-forward layers would train."""
    pairs = feed_forward_pairs(network)
    layers = [network.get_submodule(path) for pair in pairs for path in pair[1:]]
    return len(pairs), sum(rank * sum(layer.weight.shape) for layer in layers)


@pytest.mark.parametrize(
    ("sizes", "blocks", "count"),
    [
        ({"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}, 6, 245_760),
        ({"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}, 12, 737_280),
    ],
)
def test_full_size_transformers_have_the_papers_counts(sizes, blocks, count):
    """The face recogniser's backbone and ViT-B/16: 6 x 40,960 and 12 x 61,440 at rank 8."""
    config = transformers.ViTConfig(num_attention_heads=8, num_labels=100, **sizes)
    with torch.device("meta"):
        network = transformers.ViTForImageClassification(config)
    assert lora_parameters(network) == (blocks, count)


def test_layers_of_attention_and_of_one_width_are_no_feed_forward_pair():
    """In one block: attention that widens and narrows, two square layers, and the pair itself."""
    with torch.device("meta"):
        attention = nn.ModuleDict({"up": nn.Linear(4, 8), "dense": nn.Linear(8, 4)})
        square = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        own = {"widen": nn.Linear(4, 6), "narrow": nn.Linear(6, 4)}
        block = nn.ModuleDict({"attention": attention, "square": square} | own)
        network = nn.ModuleDict({"layers": nn.ModuleList([block]), "alone": nn.Linear(4, 8)})
    assert [tuple(pair) for pair in feed_forward_pairs(network)] == [
        ("layers.0", "layers.0.widen", "layers.0.narrow")
    ]
