"""What another package adds by one file and one case passes the suite of its kind."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.added import installed

ROOT = Path(__file__).parents[2]
NAMES = ("blend", "nudge", "reddish", "contrast")


def test_what_another_package_adds_passes_its_suite(tmp_path):
    paths = [str(installed(tmp_path)), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "pytest", "tests/conformance", "-p", "no:cacheprovider"]
    chosen = " or ".join([*NAMES, "has_a_case"])
    done = subprocess.run(
        [*command, "-p", "no:xdist", "-v", "-k", f"({chosen}) and not test_added"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    for name in NAMES:
        assert len(re.findall(rf"\[{name}.* PASSED", done.stdout)) >= 6, name
    assert len(re.findall(r"every_\w+_has_a_case.* PASSED", done.stdout)) == 4
