"""The shape of the source: imports go down, files and functions stay small, names are listed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import efface

ROOT = Path(efface.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FLOORS = (
    {"errors", "printable", "former_names"},
    {"concepts", "plain_values"},
    {"contracts"},
    {"registry", "files", "content", "randomness", "progress", "memory", "picture_files"},
    {"hosts", "data"},
    {"deltas"},
    {"closed_form"},
    {"text"},
    {"diffusion"},
    {"training"},
    {"runs"},
    {"metrics", "exchange", "revival", "selection", "guiding"},
    {"methods", "attacks", "guides", "judges", "searches"},
    {"bundled"},
    {"evaluation"},
    {"ledger", "reports"},
    {"workbench"},
    {"studio"},
    {"cli"},
    {"__main__"},
)
"""Rooms from the ground up: a file imports from its own room and from those below."""
HEIGHT = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
HEAVY = {"torch", "diffusers", "transformers", "peft", "matplotlib", "scipy", "numpy", "jaxtyping"}
LIGHT = [
    *(ROOT / f"{name}.py" for name in ("__init__", "errors", "concepts", "registry", "contracts")),
    *sorted((ROOT / "cli").glob("*.py")),
    *sorted((ROOT / "workbench").glob("*.py")),
]
TREES = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in FILES}


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


def arrows():
    """Lists (file, module of efface that it imports while it runs), also inside functions."""
    for name, tree in TREES.items():
        for module in imported(tree):
            if module.startswith("efface."):
                yield name, module


def room(name):
    return name.split("/")[0].removesuffix(".py")


def test_every_file_is_in_a_room_and_imports_only_go_down():
    assert {room(name) for name in TREES} <= {*HEIGHT, "__init__"}
    upward = [
        f"{name} imports {module}"
        for name, module in arrows()
        if name != "__init__.py" and (other := module.split(".")[1]) != room(name)
        if HEIGHT.get(other, 0) >= HEIGHT[room(name)] and other in HEIGHT
    ]
    assert not upward


def test_no_files_import_each_other_in_a_circle():
    modules = {name.removesuffix(".py").replace("/", "."): name for name in TREES}
    below = {name: set() for name in TREES}
    for name, module in arrows():
        if (other := modules.get(module.removeprefix("efface."))) not in (None, name):
            below[name].add(other)
    while ends := [
        name for name in below if not below[name] or not any(map({name}.__le__, below.values()))
    ]:
        below = {name: others - set(ends) for name, others in below.items() if name not in ends}
    assert not below, f"files import each other: {below}"


def test_only_the_registry_imports_rooms_by_their_names():
    """No import goes up behind the back of the test of imports."""
    allowed = {"__init__.py", "registry.py", "former_names.py", "cli/main.py", "hosts/libraries.py"}
    by_name = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module")
    }
    assert by_name <= allowed


def test_methods_never_import_methods():
    assert not [
        f"{name} imports {module}"
        for name, module in arrows()
        if name.startswith("methods/") and module.startswith("efface.methods")
    ]


def test_top_files_and_verbs_import_nothing_heavy_at_module_level():
    for path in LIGHT:
        for node in TREES[str(path.relative_to(ROOT))].body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                tops = {module.split(".")[0] for module in imported(ast.Module([node], []))}
                assert not tops & HEAVY, path


def test_listed_names_exist_and_are_documented():
    for name, tree in TREES.items():
        assert ast.get_docstring(tree), f"{name} needs a docstring"
        defined = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        for public in listed(tree):
            if public in defined:
                assert ast.get_docstring(defined[public]), f"{name}: {public} has no docstring"


def listed(tree):
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            yield from ast.literal_eval(node.value)


def test_importing_and_listing_load_nothing_heavy():
    code = (
        "import sys, efface\n"
        "from efface import registry\n"
        "[registry.entries(kind) for kind in ('methods', 'judges', 'metrics')]\n"
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
