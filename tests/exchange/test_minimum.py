"""Exported files are read by the oldest diffusers and peft that are allowed, as by the newest."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MINIMUM = ROOT / "constraints-minimum.txt"
READERS = ("test_lora_files.py", "test_kohya_xl.py", "test_alphas.py", "test_headers.py")


def pinned():
    lines = MINIMUM.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("library", ["diffusers", "peft"])
def test_the_minimum_is_the_one_that_the_package_declares(library):
    declared = re.search(rf'"{library}>=([\d.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert pinned()[library] in (declared[1], f"{declared[1]}.0")


@pytest.mark.slow
def test_the_oldest_libraries_read_what_is_exported(tmp_path):
    """Installs them into a folder that comes first, and runs the tests of readers."""
    place = tmp_path / "minimum"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place]
    done = subprocess.run([*install, "-r", MINIMUM], capture_output=True, text=True, check=False)
    if done.returncode and ("ConnectionError" in done.stderr or "No matching" in done.stderr):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    path = os.pathsep.join(map(str, (place, ROOT / "src", ROOT)))
    environment = {**os.environ, "PYTHONPATH": path}
    told = "import diffusers, peft; print(diffusers.__version__, peft.__version__)"
    versions = subprocess.run(
        [sys.executable, "-c", told], env=environment, capture_output=True, text=True, check=True
    )
    assert versions.stdout.split() == [pinned()["diffusers"], pinned()["peft"]]
    tests = [str(ROOT / "tests" / "exchange" / name) for name in READERS]
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    found = subprocess.run(run, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-4000:]
    assert "passed" in found.stdout
