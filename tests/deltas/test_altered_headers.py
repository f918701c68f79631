"""Headers and tensors that somebody changed are refused in one line, whatever was put there."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from efface.deltas.delta import Delta
from efface.errors import BadDelta
from tests.exchange.conftest import erased

FIELDS = (
    *("method", "revision", "settings", "recipe", "request", "seed", "base_model", "base_sketch"),
    *("versions", "commit", "dirty", "parents", "parts", "made_on"),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("delta") / "delta.safetensors"
    erased("tiny_sd1").save(path)
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def refusal(header, tensors, folder):
    save_file(tensors, folder / "delta.safetensors", metadata=header)
    with pytest.raises(BadDelta) as caught:
        Delta.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [None, 1.5, [1], {"a": {}}])
def test_provenance_of_other_kinds(written, tmp_path, field, value):
    header, tensors = written
    if field in ("settings", "recipe", "versions", "base_sketch") and value == {"a": {}}:
        return
    told = json.loads(header["provenance"])
    changed = json.dumps({**told, field: value})
    said = refusal({**header, "provenance": changed}, tensors, tmp_path)
    assert "is damaged" in said or "was altered" in said


@pytest.mark.parametrize(
    "request_", [{"erasures": 3}, {"erasures": [{}]}, {"erasures": [{"concept": {"name": 3}}]}]
)
def test_requests_that_name_nothing(written, tmp_path, request_):
    header, tensors = written
    told = json.loads(header["provenance"]) | {"request": request_}
    assert "is damaged" in refusal({**header, "provenance": json.dumps(told)}, tensors, tmp_path)


@pytest.mark.parametrize("values", [["a"] * 16, [None] * 16, 3])
def test_sketches_that_are_no_numbers(written, tmp_path, values):
    header, tensors = written
    told = json.loads(header["provenance"])
    told["base_sketch"] = dict.fromkeys(told["base_sketch"], values)
    assert "is damaged" in refusal({**header, "provenance": json.dumps(told)}, tensors, tmp_path)


@pytest.mark.parametrize("version", ["²", "9" * 5000, "-1", ""])
def test_versions_that_are_no_numbers(written, tmp_path, version):
    header, tensors = written
    assert "format version" in refusal({**header, "format_version": version}, tensors, tmp_path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_patches_that_are_no_floats(written, tmp_path, dtype):
    header, tensors = written
    name = next(iter(tensors))
    said = refusal(header, {**tensors, name: tensors[name].to(dtype)}, tmp_path)
    assert f"'{name}' holds {dtype}" in said


def test_tensors_of_no_patch(written, tmp_path):
    header, tensors = written
    more = {**tensors, "unet/conv_in.weight::difference": torch.ones(2)}
    assert "'unet/conv_in.weight::difference', which is of none" in refusal(header, more, tmp_path)
