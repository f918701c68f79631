"""Pages that are derived from the code must be what the code says today."""

import io
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from efface import registry

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import method_pictures  # noqa: E402
import readme_tables  # noqa: E402
import recogniser_pictures  # noqa: E402
import write_docs  # noqa: E402


@pytest.mark.thorough
def test_generated_pages_are_up_to_date():
    stale = write_docs.out_of_date(write_docs.generated())
    assert [str(path.relative_to(ROOT)) for path in stale] == [], "run `make docs`"


def test_every_link_between_pages_leads_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_pictures_of_methods_are_small_and_on_their_pages():
    pictures = sorted(method_pictures.FOLDER.glob("*"))
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size <= method_pictures.LARGEST
        page = ROOT / "docs" / "methods" / f"{picture.stem}.md"
        assert f"](../images/methods/{picture.name})" in page.read_text("utf-8")


@pytest.mark.thorough
def test_the_command_on_the_page_of_a_method_names_a_model_that_it_edits():
    for entry in registry.entries("methods"):
        text = (ROOT / "docs" / "methods" / f"{entry.name}.md").read_text("utf-8")
        (line,) = re.findall(r"^efface erase .*", text, flags=re.MULTILINE)
        words = shlex.split(line)
        assert words[2].split("+")[-1] == entry.name
        model = words[words.index("--model") + 1] if "--model" in words else "emoji"
        for method in words[2].split("+"):
            edits = registry.load("methods", method).edits
            assert ("model" in edits) == registry.reads_pictures(model), line


def test_a_sheet_of_a_recogniser_shows_wrong_names_in_red():
    from PIL import Image

    icons = [Image.new("RGB", (48, 48), "green")] * len(recogniser_pictures.SHOWN)
    right = [(name, 0.9) for name, _ in recogniser_pictures.SHOWN]
    wrong = [("banana", 0.4), *right[1:]]

    def redness(answers):
        with Image.open(io.BytesIO(recogniser_pictures.sheet(icons, right, answers))) as found:
            red, green, _ = np.asarray(found.convert("RGB"), dtype=int).transpose(2, 0, 1)
        return (red - green).max()

    assert redness(right) < 40 < redness(wrong)


def evaluation(verdict="valid", hits=1, names=("pistol",), seed=0):
    row = {"count": 10, "hits": hits}
    rows = [
        {"metric": "presence", "role": role, "concept": None, "before": row, "after": row}
        for role in ("erased", "kept")
    ]
    request = {"erasures": [{"concept": {"name": name, "kind": "object"}} for name in names]}
    return {
        "verdict": verdict,
        "provenance": {"method": "uce", "request": request, "seed": seed},
        "measurements": rows if verdict != "invalid" else [],
        "erase_seconds": 0.5,
    }


def test_results_add_up_hits_and_leave_invalid_ones_out():
    cat = evaluation(hits=3, names=("cat",))
    table = readme_tables.summary([evaluation(), cat, evaluation("invalid")])
    row = table.splitlines()[2]
    # 4 hits of 20: centre (0.2 + 1.96**2 / 40) / (1 + 1.96**2 / 20), by hand 0.248 +- 0.168
    cell = "20.0 → 20.0 [8.1, 41.6]"
    assert row == f"| uce | 2 objects (1 not valid) | {cell} | - | - | - | {cell} | - | 0.5 |"


def test_a_row_says_how_many_concepts_seeds_and_how_many_at_once():
    seeds = [evaluation(seed=seed) for seed in (0, 1)]
    assert "| uce | 1 objects, 2 seeds |" in readme_tables.summary(seeds)
    five = [evaluation(names=("pistol", "cat", "dog"))]
    assert "| uce | 3 objects at once |" in readme_tables.summary(five)


def test_the_page_of_results_has_every_concept_and_no_number_of_an_invalid_one(tmp_path):
    folder = tmp_path / "uce"
    folder.mkdir()
    for name, one in {"a": evaluation(), "b": evaluation("invalid")}.items():
        (folder / f"{name}.json").write_text(json.dumps(one))
    rows = readme_tables.results_page(tmp_path).splitlines()
    assert any(row.startswith("| pistol | valid | 10.0 → 10.0 [") for row in rows)
    assert "| pistol | invalid | - | - | - | - | - | - |" in rows


def test_methods_that_leave_or_lose_too_much_are_named():
    cats = [evaluation(hits=4, names=("cat",)), evaluation("invalid")]
    assert readme_tables.missed(cats, left=0.4, lost=0.0) == "Every method holds them."
    told = "They are missed by: `uce` leaves 40.0% of objects."
    assert readme_tables.missed(cats, left=0.3, lost=0.0) == told
    less = evaluation(hits=8)
    less["measurements"][1] = less["measurements"][1] | {"after": {"count": 10, "hits": 6}}
    lost = "They are missed by: `uce` loses 20.0 points of kept nouns beside objects."
    assert readme_tables.missed([less], left=0.9, lost=0.1) == lost


def test_without_results_the_table_says_so(tmp_path):
    assert readme_tables.summary(readme_tables.read(tmp_path)) == readme_tables.NO_RESULTS


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE", "CHANGELOG.md", "constraints.txt"])
def test_the_files_that_a_release_needs_are_there(name):
    assert (ROOT / name).read_text("utf-8").strip()
