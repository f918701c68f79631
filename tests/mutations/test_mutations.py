"""Mistakes of one line in numerics are caught by tests that CI runs."""

import os
import subprocess
import sys

import pytest

from tests.mutations.listed import MUTATIONS
from tests.mutations.running import ROOT, SOURCE


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_line_to_get_wrong_is_there(mutation):
    """Or the mutation has to be written anew with the code that it changes."""
    text = (SOURCE / "efface" / mutation.file).read_text()
    assert mutation.applied(text) != text
    for test in mutation.tests:
        assert test.startswith("-k") or not test.startswith("tests") or named(test).exists()


def named(test):
    return ROOT / test.partition("::")[0]


@pytest.mark.slow
def test_every_mutation_is_caught():
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutations"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("caught") == len(MUTATIONS)
