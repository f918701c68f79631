"""Originals that wait on disk: nothing is held twice, and everything comes back."""

import gc
import tempfile

import pytest
import torch

from efface.errors import BadRequest
from efface.files import write_atomically
from efface.training.parameters import chosen, training
from efface.training.parking import Parked
from tests.methods.trained import ran


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where temporary files of the test go; all of them are gone after it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not [*folder.iterdir()]


def alive():
    """Counts the bytes of all tensors in the process, shared ones once."""
    gc.collect()
    storages = {}
    for each in gc.get_objects():
        if isinstance(each, torch.Tensor) and not each.is_meta:
            for tensor in (each, each.grad if each.is_leaf else None):
                if tensor is not None:
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def size(weights):
    return sum(weight.nbytes for weight in weights.values())


def test_tensors_come_back_bit_for_bit(tmp_path):
    odd = torch.tensor([float("nan"), -0.0, float("inf"), 1e-42])
    strided = torch.arange(6.0).reshape(2, 3).T
    parked = Parked({"odd": odd, "a/b.c": strided}, tmp_path)
    assert list(parked) == ["odd", "a/b.c"]
    assert len(parked) == 2
    assert torch.equal(parked["odd"].view(torch.int32), odd.view(torch.int32))
    assert torch.equal(parked["a/b.c"], strided)


@pytest.mark.parametrize(("originals", "copies"), [("memory", 1), ("disk", 0)])
def test_weights_are_held_once_or_twice_while_training(tiny_sd1, originals, copies):
    weights = chosen(tiny_sd1, "unet")
    before = alive()
    with training(tiny_sd1, weights, originals=originals):
        assert alive() - before == copies * size(weights)
    assert alive() == before


@pytest.mark.parametrize("failure", [None, ValueError, KeyboardInterrupt])
def test_the_very_tensors_are_what_they_were_however_it_ends(tiny_sd1, temporary, failure):
    weights = chosen(tiny_sd1, "key_value")
    before = {key: weight.detach().clone() for key, weight in weights.items()}
    places = {key: weight.data_ptr() for key, weight in weights.items()}
    try:
        with training(tiny_sd1, weights, originals="disk"), torch.no_grad():
            assert len([*temporary.rglob("*.safetensors")]) == len(weights)
            for weight in weights.values():
                weight.mul_(1.1)
            if failure:
                raise failure
    except (ValueError, KeyboardInterrupt):
        pass
    assert all(torch.equal(weight, before[key]) for key, weight in weights.items())
    assert {key: weight.data_ptr() for key, weight in weights.items()} == places


def test_a_second_interrupt_waits_until_all_weights_are_back(tiny_sd1, monkeypatch):
    weights = chosen(tiny_sd1, "key_value")
    before = {key: weight.detach().clone() for key, weight in weights.items()}
    reads, read = [], Parked.__getitem__

    def interrupted(parked, key):
        reads.append(key)
        if len(reads) == 3:
            raise KeyboardInterrupt
        return read(parked, key)

    with pytest.raises(KeyboardInterrupt), training(tiny_sd1, weights, originals="disk"):
        monkeypatch.setattr(Parked, "__getitem__", interrupted)
        with torch.no_grad():
            for weight in weights.values():
                weight.add_(1)
    assert all(torch.equal(weight, before[key]) for key, weight in weights.items())


def test_a_full_disk_is_told_before_anything_changes(tiny_sd1, monkeypatch):
    def full(path, content):
        if path.name.startswith("3."):
            raise BadRequest("cannot write")
        write_atomically(path, content)

    weights = chosen(tiny_sd1, "key_value")
    before = {key: weight.detach().clone() for key, weight in weights.items()}
    monkeypatch.setattr("efface.training.parking.write_atomically", full)
    with (
        pytest.raises(BadRequest, match="cannot write"),
        training(tiny_sd1, weights, originals="disk"),
    ):
        pass
    assert all(torch.equal(weight, before[key]) for key, weight in weights.items())


@pytest.mark.slow
def test_ant_gives_the_same_delta_with_a_copy_less(tiny_sd1):
    """Beside the weights a step needs gradients, two states of Adam and a byte a weight of mask."""
    whole = size(chosen(tiny_sd1, "unet"))
    found, held = {}, {}
    for originals in ("memory", "disk"):
        before = alive()

        def watching(*_, at=originals, before=before):
            held[at] = alive() - before

        settings = {"maps": 2, "map_batches": 1, "before": 0.5, "steps": 2, "keep_weight": 0.0}
        found[originals] = ran("ant", tiny_sd1, originals=originals, monitor=watching, **settings)
    patches, same = (found[each].delta.patches for each in ("memory", "disk"))
    assert patches.keys() == same.keys()
    assert all(
        torch.equal(patch.difference, same[key].difference) for key, patch in patches.items()
    )
    assert held["memory"] - held["disk"] == pytest.approx(whole, rel=0.02)
    assert held["disk"] < 4 * whole, "3.25 and the pool"
