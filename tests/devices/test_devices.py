"""Everything works on a device that is not the processor, and on one that holds no float64."""

import os
import subprocess
import sys

import pytest

from tests.devices.accelerator import COMPILER, WITHOUT_FLOAT64

KINDS = ("methods", "recognisers", "attacks", "guides")


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="needs g++ to build the toy device with")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("has_float64", [True, False])
def test_each_case_gives_on_a_device_what_it_gives_on_the_processor(kind, has_float64):
    more = {} if has_float64 else {WITHOUT_FLOAT64: "1"}
    words = [sys.executable, "-m", "tests.devices", kind]
    done = subprocess.run(words, env={**os.environ, **more}, capture_output=True, text=True)
    told = [line for line in done.stdout.splitlines() if not line.endswith(": same")]
    assert done.returncode == 0, (told, done.stderr[-2000:])
    assert not told
    assert ": same" in done.stdout
