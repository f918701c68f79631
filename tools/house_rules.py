"""The limits that keep every file readable, checked; and the numbers that show drift.

python tools/house_rules.py      prints the numbers; exits 1 and names what is over a limit
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("src", "tests", "tools", "emoji", "benchmarks")
LIMITS = {"lines in a file": 400, "lines in a function": 60}
MACHINE_PATH = re.compile(r"(?<![\w.>])/(?:home|root|work|Users)/\w")


@dataclass(frozen=True)
class Size:
    """How large one thing is, and where it is."""

    what: str
    count: int
    where: str


def sources(root: Path = ROOT) -> list[Path]:
    """Lists the project's Python files, without build products."""
    found = [path for folder in FOLDERS for path in (root / folder).rglob("*.py")]
    return sorted(path for path in found if "work" not in path.relative_to(root).parts)


def sizes(path: Path, name: str) -> Iterator[Size]:
    """Measures a file and each of its functions."""
    text = path.read_text("utf-8")
    yield Size("lines in a file", text.count("\n"), name)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where = f"{name}:{node.lineno} {node.name}"
            yield Size("lines in a function", (node.end_lineno or 0) - node.lineno + 1, where)
            given = node.args
            count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
            yield Size("parameters", count, where)


def too_large(found: list[Size]) -> list[Size]:
    """Picks what is over its limit."""
    return [size for size in found if size.count > LIMITS.get(size.what, size.count)]


def machine_paths(root: Path = ROOT) -> list[str]:
    """Lists lines that name a folder of somebody's machine."""
    pages = [
        *root.glob("*.md"),
        *root.glob("*.t*"),
        *(root / "docs").rglob("*.md"),
        root / "Makefile",
    ]
    texts = [path for path in pages if path.suffix in {".md", ".toml", ".txt", ""}]
    return [
        f"{path.relative_to(root)}:{number}"
        for path in [*sources(root), *texts]
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]


def without_all(root: Path = ROOT) -> list[str]:
    """Lists modules of the package that define public names and do not list them."""
    found = []
    for path in sorted((root / "src").rglob("*.py")):
        body = ast.parse(path.read_text("utf-8")).body
        public = [
            node
            for node in body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        ]
        names = {
            target.id
            for node in body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        if public and "__all__" not in names:
            found.append(str(path.relative_to(root)))
    return found


def main() -> int:
    """Prints the largest of each; gives 1 when something is too large."""
    files = sources()
    found = [size for path in files for size in sizes(path, str(path.relative_to(ROOT)))]
    for what in dict.fromkeys(size.what for size in found):
        largest = max((size for size in found if size.what == what), key=lambda size: size.count)
        print(f"most {what}: {largest.count} ({largest.where})")
    ignored = sum(path.read_text("utf-8").count("# type: ignore") for path in files)
    print(f"files: {len(files)}; type checks switched off: {ignored}")
    problems = [f"{size.where}: {size.count} {size.what}" for size in too_large(found)]
    problems += [f"{place}: a path of one machine" for place in machine_paths()]
    problems += [f"{name}: public names and no __all__" for name in without_all()]
    for problem in problems:
        print(f"over the limit: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
