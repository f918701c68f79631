"""Runs tests against a copy of the source with one line changed."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"


@dataclass(frozen=True)
class Mutation:
    """A mistake that somebody could make, and the tests that notice."""

    name: str
    file: str
    """Under src/efface."""
    right: str
    """Part of a line, there once."""
    wrong: str
    tests: tuple[str, ...]
    """Arguments of pytest: files or tests; of these, default and thorough ones are run."""

    def applied(self, text: str) -> str:
        """Makes the mistake.

        Raises:
            ValueError: the line is not there, or not alone, so the mutation must be written anew.
        """
        if text.count(self.right) != 1:
            raise ValueError(
                f"{self.name}: '{self.right}' is {text.count(self.right)} times in {self.file}"
            )
        return text.replace(self.right, self.wrong)


@contextlib.contextmanager
def mutated(mutation: Mutation) -> Iterator[Path]:
    """Gives a folder with the changed source."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "src"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / "efface" / mutation.file
        path.write_text(mutation.applied(path.read_text(encoding="utf-8")), encoding="utf-8")
        yield copy


def caught(mutation: Mutation) -> bool:
    """Runs the tests in a process of its own, forked before anything of efface is loaded."""
    with mutated(mutation) as source:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os._exit(_tested(source, mutation.tests))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, 1):
        raise RuntimeError(f"{mutation.name}: its tests do not run (pytest ended with {status})")
    return status == 1


def _tested(source: Path, tests: tuple[str, ...]) -> int:
    import pytest

    if any(name.partition(".")[0] == "efface" for name in sys.modules):
        return 3
    os.environ["PYTHONPATH"] = str(source)
    sys.path.insert(0, str(source))
    os.chdir(ROOT)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        ours = ["-m", "not slow and not gpu", "-p", "no:cacheprovider", "-p", "no:xdist"]
        return int(pytest.main(["-q", "-x", *ours, *tests]))
