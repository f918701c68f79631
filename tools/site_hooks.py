"""What the site makes of docs/: links that leave it, pictures from outside, notebooks as pages."""

from __future__ import annotations

import base64
import json
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NOTEBOOKS = "notebooks"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_PICTURES = (".png", ".jpg", ".svg", ".webp")


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


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """Gives an executed notebook as Markdown, and the pictures that it shows by their names."""
    parts, pictures = [], dict[str, bytes]()
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}_{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![What the cell shows]({name})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n", pictures


def on_files(files: Any, *, config: Any) -> Any:
    """Adds notebooks as pages, and pictures of committed results that pages show."""
    from mkdocs.structure.files import File

    for book in sorted((ROOT / "docs" / NOTEBOOKS).glob("*.ipynb")):
        text, pictures = notebook(book)
        files.append(File.generated(config, f"{NOTEBOOKS}/{book.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"{NOTEBOOKS}/{name}", content=content))
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
    """Leads links to notebooks and pictures to where they are, takes others off their text."""
    del config, files
    name = page.file.src_uri

    def placed(found: re.Match[str]) -> str:
        mark, text, target, anchor = found.groups()
        if target.endswith(".ipynb"):
            return f"{mark}[{text}]({target.removesuffix('.ipynb')}.md{anchor or ''})"
        path = outside(target, name)
        if path is None:
            return found[0]
        if path.endswith(_PICTURES):
            return f"{mark}[{text}]({posixpath.relpath(path, posixpath.dirname(name) or '.')})"
        return text

    return _LINK.sub(placed, markdown)
