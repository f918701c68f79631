"""What the site does with links to files outside of docs/: pictures come along, others are text."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_PICTURES = (".png", ".jpg", ".svg")


def outside(target: str, page: str) -> str | None:
    """Gives the path from the project's folder of a link that leaves docs/; None if it stays.

    Args:
        target: as it stands in the page.
        page: the page's path below docs/.
    """
    if re.match(r"[a-z]+:", target):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path == "docs" or path.startswith("docs/") else path


def on_files(files: Any, *, config: Any) -> Any:
    """Adds pictures of committed results that pages show."""
    from mkdocs.structure.files import File

    wanted = set()
    for page in ROOT.glob("docs/**/*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        for _, _, target, _ in _LINK.findall(page.read_text("utf-8")):
            path = outside(target, name)
            if path and path.endswith(_PICTURES):
                wanted.add(path)
    for path in sorted(wanted):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Leads pictures to where they came along, and takes links to other files off their text."""
    del config, files
    name = page.file.src_uri

    def placed(found: re.Match[str]) -> str:
        mark, text, target, _ = found.groups()
        path = outside(target, name)
        if path is None:
            return found[0]
        if path.endswith(_PICTURES):
            return f"{mark}[{text}]({posixpath.relpath(path, posixpath.dirname(name) or '.')})"
        return text

    return _LINK.sub(placed, markdown)
