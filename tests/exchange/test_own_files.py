"""A delta that came without its run is imported as it is; adapters are no edits of weights."""

import dataclasses

import pytest
import torch

from efface.concepts import request as asked
from efface.errors import BadDelta, BadRequest
from efface.exchange.adapter import write_adapter
from efface.exchange.imports import import_delta
from tests.conftest import host
from tests.exchange.conftest import REQUEST, with_delta


@pytest.fixture
def file(delta, tmp_path):
    delta.save(tmp_path / "mail" / "delta.safetensors")
    return tmp_path / "mail" / "delta.safetensors"


def test_a_delta_comes_back_as_itself_from_its_file_or_folder(pipe, delta, file):
    for source in (file, file.parent):
        found = import_delta(source, pipe, REQUEST)
        assert found.delta.id == delta.id
        assert found.layout == "a delta of efface"
        assert found.unused == found.notes == ()
    assert torch.equal(with_delta(pipe, found.delta), with_delta(pipe, delta))


def test_it_is_what_it_says_and_nothing_else(pipe, file, tmp_path):
    with pytest.raises(BadDelta, match="erases pistol, and cat was asked for"):
        import_delta(file, pipe, asked("cat"))
    with pytest.raises(BadDelta, match="erases pistol, and pistol, cat was asked for"):
        import_delta(file, pipe, asked(["pistol", "cat"]))
    with pytest.raises(BadRequest, match="leave out part, gate and unconditional"):
        import_delta(file, pipe, REQUEST, gate="none")
    with pytest.raises(BadDelta, match="load the base it was made for"):
        import_delta(file, host("tiny_sd1", seed=5), REQUEST)


def test_one_that_stands_on_another_is_refused_without_it(pipe, delta, tmp_path):
    above = dataclasses.replace(
        delta, provenance=dataclasses.replace(delta.provenance, parents=("0123456789abcdef",))
    )
    above.save(tmp_path / "above.safetensors")
    with pytest.raises(BadDelta, match="stands on 0123456789abcdef"):
        import_delta(tmp_path / "above.safetensors", pipe, REQUEST)


def test_an_adapter_is_said_to_be_one(pipe, delta, tmp_path):
    write_adapter(delta, tmp_path / "adapter.safetensors", {})
    with pytest.raises(BadDelta, match=r"efface\.load_adapter"):
        import_delta(tmp_path / "adapter.safetensors", pipe, REQUEST)
