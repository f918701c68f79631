"""What another package adds by one file and one case passes the suite of its kind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.added import installed
from tests.cases import CASES, GUIDE_CASES, JUDGE_CASES, METRIC_CASES, Case, all_of
from tests.cases.kinds import GuideCase, JudgeCase, MetricCase

ROOT = Path(__file__).parents[2]
NAMES = ("blend", "nudge", "calm", "reddish", "contrast")


def test_cases_of_another_package_are_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(installed(tmp_path))
    ours = [case for cases in (CASES, GUIDE_CASES, JUDGE_CASES, METRIC_CASES) for case in cases]
    with monkeypatch.context() as patched:
        for name in ("extras", "extras.cases"):
            patched.delitem(sys.modules, name, raising=False)
        found = [case for kind in (Case, GuideCase, JudgeCase, MetricCase) for case in all_of(kind)]
        assert sorted(map(name_of, found)) == sorted(NAMES)
    assert not {name_of(case) for case in ours} & set(NAMES)


def name_of(case):
    """The name in the registry of what a case is for."""
    return next(
        vars(case)[kind] for kind in ("method", "guide", "judge", "metric") if kind in vars(case)
    )


@pytest.mark.slow
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
        assert len(re.findall(rf"\[{name}.* PASSED", done.stdout)) >= 5, name
    assert len(re.findall(r"every_\w+_has_a_case.* PASSED", done.stdout)) == 9
