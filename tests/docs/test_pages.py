"""Links and anchors lead somewhere; every command is run by a test, or says what it needs."""

import base64
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from efface.bundled import weights_folder

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
RUN = ("start", "many", "evidence", "choosing")
"""Pages whose commands, but for marked ones, are run one after another."""
COMMAND = re.compile(r"^(efface|make|python|hf|pip|\.venv/bin/\w+) ")
_FENCE = re.compile(
    r"^(?P<mark><!-- needs: [^>]+ -->\n\n?)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)

sys.path.insert(0, str(ROOT / "tools"))

import site_hooks  # noqa: E402


def anchors(text):
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    found = set()
    for title in re.findall(r"^#+ (.+)$", plain, flags=re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        found.add(re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", words).strip()))
    return found


def links(text):
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\((?![a-z]+:)([^)#\s]*)(#[^)\s]+)?\)", plain)


def commands(page):
    """Command lines of a page, each with whether its block says what it needs."""
    found = []
    for block in _FENCE.finditer(page.read_text("utf-8")):
        if block["language"] in ("", "sh"):
            lines = [line for line in block["text"].splitlines() if COMMAND.match(line)]
            found += [(line, block["mark"] is not None) for line in lines]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_and_anchor_leads_somewhere(page):
    for target, anchor in links(page.read_text("utf-8")):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor and path.suffix == ".md":
            assert anchor[1:] in anchors(path.read_text("utf-8")), f"{page.name}: {target}{anchor}"


def test_every_page_is_on_the_site():
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in DOCS.glob("*.md"):
        assert f": {page.name}\n" in text, f"{page.name} is not in the navigation of mkdocs.yml"


@pytest.mark.parametrize(
    ("target", "page", "path"),
    [
        ("start.md", "index.md", None),
        ("../src/efface/files.py", "modules.md", "src/efface/files.py"),
        ("../measuring.md", "methods/uce.md", None),
        ("../../src/x.py", "methods/uce.md", "src/x.py"),
        ("https://example.org/a.png", "index.md", None),
    ],
)
def test_the_site_knows_which_links_leave_the_docs(target, page, path):
    assert site_hooks.outside(target, page) == path


def test_every_notebook_is_on_the_site():
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    for book in (DOCS / "notebooks").glob("*.ipynb"):
        assert f": notebooks/{book.stem}.md\n" in text, f"{book.name} is not in mkdocs.yml"


def test_a_notebook_becomes_a_page_with_its_pictures(tmp_path):
    png = base64.b64encode(b"a picture").decode()
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": ["1 + 1"],
            "outputs": [
                {"output_type": "stream", "text": ["said\n"]},
                {"output_type": "execute_result", "data": {"text/plain": ["2"]}},
                {"output_type": "execute_result", "data": {"image/png": png, "text/plain": "x"}},
            ],
        },
    ]
    path = tmp_path / "book.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    text, pictures = site_hooks.notebook(path)
    assert text == (
        "# Title\ntext\n\n```python\n1 + 1\n```\n\n```text\nsaid\n```\n\n```text\n2\n```\n\n"
        "![What the cell shows](book_1.png)\n"
    )
    assert pictures == {"book_1.png": b"a picture"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_is_run_or_says_what_it_needs(page):
    if page.parent == DOCS and page.stem in RUN:
        return
    unmarked = [line for line, marked in commands(page) if not marked]
    assert not unmarked, f"put <!-- needs: ... --> above the block of {unmarked[0]!r}"


def test_a_command_without_a_mark_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- needs: time -->\n\n```\nefface a b\n```\n\n```\nefface list methods\n```\n"
    )
    assert commands(page) == [("efface a b", True), ("efface list methods", False)]


@pytest.mark.slow
@pytest.mark.skipif(
    not (weights_folder() / "pipeline" / "model_index.json").exists(),
    reason="the bundled model is not built yet: make emoji",
)
@pytest.mark.parametrize("name", RUN)
def test_the_commands_of_a_page_run_one_after_another(name, tmp_path, monkeypatch):
    from efface.cli.main import main

    monkeypatch.chdir(tmp_path)
    lines = [line for line, marked in commands(DOCS / f"{name}.md") if not marked]
    assert lines
    for line in lines:
        program, *words = shlex.split(line, comments=True)
        assert program == "efface"
        monkeypatch.setattr(sys, "argv", ["efface", *words])
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
        expected = re.search(r"# exit code (\d)", line)
        assert (code or 0) == int(expected[1] if expected else 0), line
