"""JSON of anybody's making is read, or refused in one line that names the file."""

import json
import os

import pytest

from efface.errors import BadModel, BadRequest
from efface.files import MOST_NESTED, parse_json, read_json, read_json_object

DEEP = ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000]


@pytest.mark.parametrize(
    "content",
    [
        *(text.encode() for text in DEEP),
        ("[" * 200 + "]" * 200).encode(),
        b"",
        b"{",
        b'{"a": 1} and more',
        b"\xff\xfe\x00",
        b"9" * 5000,
    ],
)
def test_what_is_not_json_is_one_line_with_the_file_and_what_to_do(tmp_path, content):
    file = tmp_path / "run.json"
    file.write_bytes(content)
    with pytest.raises(BadModel, match="copy the model again") as refused:
        read_json(file, failure=BadModel, advice="copy the model again")
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["null", "[]", "1", '"text"'])
def test_an_object_is_asked_for(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(BadRequest, match="does not hold a JSON object"):
        read_json_object(tmp_path / "run.json")


def test_what_is_no_file_is_refused_and_nothing_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(BadRequest, match="not a regular file"):
            read_json(place)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")


def test_what_is_json_is_read(tmp_path):
    content = {"name": "ü", "list": [1, 2.5, None, True]}
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert read_json_object(tmp_path / "run.json") == content
    assert parse_json("[" * MOST_NESTED + "]" * MOST_NESTED, "text") is not None
