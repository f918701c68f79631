"""Pages that are derived from the code must be what the code says today."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import readme_tables  # noqa: E402
import write_docs  # noqa: E402


def test_generated_pages_are_up_to_date():
    stale = write_docs.out_of_date(write_docs.generated())
    assert [str(path.relative_to(ROOT)) for path in stale] == [], "run `make docs`"


def test_every_link_between_pages_leads_somewhere():
    import re

    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def evaluation(verdict="valid", hits=1):
    row = {"count": 10, "hits": hits}
    rows = [
        {"metric": "presence", "role": role, "concept": None, "before": row, "after": row}
        for role in ("erased", "synonym", "neighbour", "kept")
    ]
    request = {"erasures": [{"concept": {"name": "pistol", "kind": "object"}}]}
    return {
        "verdict": verdict,
        "provenance": {"method": "uce", "request": request},
        "measurements": rows,
    }


def test_results_add_up_hits_and_leave_invalid_ones_out():
    table = readme_tables.results_table([evaluation(), evaluation(hits=3), evaluation("invalid")])
    row = table.splitlines()[2]
    assert row.startswith("| uce | 2 objects (1 not valid) | 20.0% [")
    # 4 hits of 20: centre (0.2 + 1.96**2 / 40) / (1 + 1.96**2 / 20), by hand 0.248 +- 0.168
    assert row.count("20.0% [8.1%, 41.6%]") == len(readme_tables.COLUMNS)


def test_without_results_the_table_says_so(tmp_path):
    assert readme_tables.results_table(readme_tables.read(tmp_path)) == readme_tables.NO_RESULTS


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE", "CHANGELOG.md", "constraints.txt"])
def test_the_files_that_a_release_needs_are_there(name):
    assert (ROOT / name).read_text("utf-8").strip()
