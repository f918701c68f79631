"""The shape of the source: imports go down, files and functions stay small, names are listed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import efface

ROOT = Path(efface.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
HEIGHT = {
    **dict.fromkeys(("errors", "concepts", "contracts", "registry"), 0),
    "models": 1,
    "core": 2,
    **dict.fromkeys(("methods", "attacks", "judges", "metrics", "emoji", "exchange"), 3),
    "evaluation": 4,
    **dict.fromkeys(("reports", "ledger"), 5),
    **dict.fromkeys(("cli", "web"), 6),
}
HEAVY = {"torch", "diffusers", "transformers", "peft", "matplotlib", "scipy", "numpy", "jaxtyping"}
LIGHT = [path for path in FILES if path.parent in (ROOT, ROOT / "cli")]


def name(path):
    return str(path.relative_to(ROOT))


def imported(tree):
    """Lists every module that a file imports, also inside functions, but not for types only."""
    for node in walk_running(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def walk_running(node):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from walk_running(child)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_only_go_down(path):
    if path == ROOT / "__init__.py":
        return
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for module in imported(ast.parse(path.read_text())):
        if not module.startswith("efface."):
            continue
        other = module.split(".")[1]
        if other == own or other not in HEIGHT:
            continue
        assert HEIGHT[other] <= HEIGHT[own], f"{name(path)} imports {module}"
        assert (own, other) != ("methods", "methods")


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=name)
def test_methods_never_import_methods(path):
    modules = imported(ast.parse(path.read_text()))
    assert not [module for module in modules if module.startswith("efface.methods")]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, f"{node.name} is too long"


@pytest.mark.parametrize("path", LIGHT, ids=name)
def test_top_files_import_nothing_heavy_at_module_level(path):
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            tops = {module.split(".")[0] for module in imported(ast.Module([node], []))}
            assert not tops & HEAVY


@pytest.mark.parametrize("path", FILES, ids=name)
def test_listed_names_exist_and_are_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module needs a docstring"
    defined = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    for public in listed[0] if listed else []:
        if public in defined:
            assert ast.get_docstring(defined[public]), f"{public} has no docstring"


def test_importing_and_listing_load_nothing_heavy():
    code = (
        "import sys, efface\n"
        "from efface import registry\n"
        "[registry.entries(kind) for kind in ('methods', 'attacks', 'judges', 'metrics')]\n"
        f"sys.exit(' '.join(sorted({HEAVY!r} & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_public_names_are_those_that_load():
    assert {"load", "erase", "Concept", "Delta", "evaluate", "list_methods"} <= set(efface.__all__)
    for public in efface.__all__:
        assert getattr(efface, public) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(efface, "nothing")  # noqa: B009
