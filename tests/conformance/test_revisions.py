"""A golden number that changes needs a raised revision of its method: files are told apart by it.

Read from git: whatever a case's golden numbers were under the method's present revision, they still
are. A case is told by its text without its numbers, and by what that text refers to.
"""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from efface import registry

ROOT = Path(__file__).parents[2]
CASES = ("tests/cases.py", "tests/cases")
GIVES = {"golden", "change", "seconds", "slow"}
"""Arguments of a case that do not say what is run."""
REVISION = re.compile(r"^    revision: ClassVar\[int\] = (\d+)$", re.MULTILINE)


def git(*arguments, given=b""):
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, input=given, capture_output=True, check=False
    )
    return done.stdout if done.returncode == 0 else None


def contents(names):
    """Reads many objects in one go; what is not there is left out."""
    told, found = git("cat-file", "--batch", given="\n".join(names).encode()), {}
    for name in names:
        head, _, told = told.partition(b"\n")
        if not head.endswith(b"missing"):
            size = int(head.split()[-1])
            found[name], told = told[:size].decode(), told[size + 1 :]
    return found


class Essence(ast.NodeTransformer):
    """Leaves out docstrings and what does not say what is run."""

    def visit_Call(self, node):
        node.keywords = [each for each in node.keywords if each.arg not in GIVES]
        return self.generic_visit(node)

    def visit_arguments(self, node):
        named = list(zip(node.kwonlyargs, node.kw_defaults, strict=True))
        kept = [pair for pair in named if pair[0].arg not in GIVES]
        node.kwonlyargs, node.kw_defaults = ([pair[place] for pair in kept] for place in (0, 1))
        return self.generic_visit(node)

    def visit_FunctionDef(self, node):
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        return self.generic_visit(node)


@cache
def goldens(*sources):
    """Gives (method, golden numbers) of every case in some files, by the case's text."""
    trees = [ast.parse(source) for source in sources]
    defined = {}
    for node in (node for tree in trees for node in tree.body):
        if isinstance(node, ast.FunctionDef):
            defined[node.name] = [node]
        elif isinstance(node, ast.Assign | ast.AugAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            defined.setdefault(ast.unparse(target), []).append(node)
    defined.pop("CASES", None)
    found, whole = {}, cache(lambda name: "".join(map(essence, defined[name])))
    for call in (node for tree in trees for node in ast.walk(tree)):
        given = {each.arg: each.value for each in getattr(call, "keywords", ())}
        numbers = given.get("golden", given.get("change"))
        method = given.get("method") or (call.args or [None])[0] if numbers else None
        if isinstance(method, ast.Constant) and not names_in(numbers):
            told = ast.literal_eval(numbers)
            needed, waiting = set(), names_in(call)
            while waiting:
                if (name := waiting.pop()) in defined and name not in needed:
                    needed.add(name)
                    waiting += names_in(*defined[name])
            text = "\n".join([essence(call), *(whole(name) for name in sorted(needed))])
            found[text] = (method.value, told if isinstance(told, dict) else {"": told})
    return found


def names_in(*nodes):
    return [n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)]


def essence(node):
    return ast.unparse(Essence().visit(ast.parse(ast.unparse(node))))


def committed():
    """Lists the commits that changed cases, with their goldens and the methods' revisions."""
    told = git("log", "--format=commit %h", "--name-only", "--", *CASES).decode().split("\n")
    commits = [line.split()[1] for line in told if line.startswith("commit ")]
    paths = sorted({line for line in told if line.endswith(".py")})
    methods = {name: f"src/efface/methods/{name}.py" for name in registry.list_methods()}
    held = contents([f"{c}:{path}" for c in commits for path in (*paths, *methods.values())])
    for commit in commits:
        sources = [held[name] for path in paths if (name := f"{commit}:{path}") in held]
        revisions = {}
        for method, path in methods.items():
            found = REVISION.search(held.get(f"{commit}:{path}", ""))
            revisions[method] = int(found[1]) if found else 1
        yield commit, goldens(*sources), revisions


@pytest.mark.thorough
def test_golden_numbers_only_change_with_the_revision_of_their_method():
    if git("rev-parse", "--is-inside-work-tree") is None:
        pytest.skip("not a git checkout, so there is nothing to compare with")
    present = goldens(*(path.read_text() for path in sorted((ROOT / CASES[1]).glob("*.py"))))
    assert len(present) > len(registry.list_methods())
    moved, current = {}, {}
    for name in registry.list_methods():
        current[name] = registry.load("methods", name).revision
    for commit, older, revisions in committed():
        for text in present.keys() & older.keys():
            method, now = present[text]
            before = older[text][1]
            same = now == pytest.approx(before, rel=1e-3) or not any(before.values())
            if revisions[method] == current[method] and not same:
                told = f"{method}: {before} at {commit}, {now} now: {text.splitlines()[0]}"
                moved.setdefault(text, told)
    assert not moved, "raise the revision of these methods:\n" + "\n".join(moved.values())


OLD = 'SET = {"a": 1}\nCASES = (made("esd", change=0.5, **SET, slow=True), made("uce", change=1.0))'


def test_a_case_is_told_by_what_it_runs_and_not_by_its_numbers():
    same = goldens(OLD).keys() & goldens(OLD.replace("0.5", "0.7").replace("True", "0")).keys()
    assert len(same) == 2
    other = goldens(OLD.replace('"a": 1', '"a": 2')).keys()
    assert {goldens(OLD)[text][0] for text in goldens(OLD).keys() & other} == {"uce"}
