"""The checks of the house rules find what they are for; `make lint` runs them on the project."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tools"))

import house_rules


def project(tmp_path, text):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "thing.py").write_text(text)
    (tmp_path / "Makefile").write_text("all:\n")
    return tmp_path


def test_long_files_and_functions_are_found(tmp_path):
    body = "\n".join(["    x = 1"] * 60)
    root = project(tmp_path, f"def long():\n{body}\n" + "\n" * 360)
    (path,) = house_rules.sources(root)
    found = house_rules.too_large(list(house_rules.sizes(path, "thing.py")))
    assert [(size.what, size.count) for size in found] == [
        ("lines in a file", 421),
        ("lines in a function", 61),
    ]


def test_public_names_must_be_listed(tmp_path):
    assert house_rules.without_all(project(tmp_path, "def f(): ...\n")) == ["src/thing.py"]


def test_private_modules_need_no_list(tmp_path):
    assert house_rules.without_all(project(tmp_path, "def _f(): ...\n")) == []


def test_machine_paths_are_found(tmp_path):
    root = project(tmp_path, 'a = "emoji/work/x"\nb = "/' + 'home/me/x"\n')
    assert house_rules.machine_paths(root) == ["src/thing.py:2"]
