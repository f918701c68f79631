"""Arguments of other types are refused in one line; by users' Python, which checks no types."""

import subprocess
import sys

import pytest

TRIED = """
import efface
from efface.errors import EffaceError
from efface.evaluation.suites import suite_for
from efface.hosts.families import tiny_pipeline
pipe = tiny_pipeline("sd1", seed=0)
delta = efface.erase(pipe, "pistol", keep=["cat"], method="uce").delta
tried = [
    *({"method": each} for each in (None, 3, [], ["uce", None], b"uce", object(), efface.erase)),
    *({"monitor": each} for each in (3, None)),
    {"workspace": "x"}, {"seed": True}, {"preset": ["emoji"]}, {"kind": None}, {"keep": 3},
]
calls = [lambda given=given: efface.erase(pipe, "pistol", **{"method": "uce", **given})
         for given in tried]
calls += [lambda place=place: work(place) for place in (None, 3, b"x", "", "a\\0b", [])
          for work in (delta.save, efface.Delta.load, efface.ErasureResult.load,
                       efface.load_adapter, lambda name: efface.edited_copy(name, delta, "x"),
                       lambda name: efface.import_delta(name, pipe, efface.request("pistol")))]
calls += [lambda: efface.Workspace(cache=3)]
calls += [lambda: efface.compose(delta), lambda: efface.compose([delta], scales=3),
          lambda: efface.compose([delta], scales="1"), lambda: delta.scaled(True)]
cat = efface.guide("negative", text="cat")
tried = [{"guides": None}, {"guides": [3]}, {"guides": [efface.guide]}, {"prompts": None},
         {"prompts": [3]}, {"prompts": b"x"}, {"steps": 1.5}, {"steps": 2000}, {"seed": "x"},
         {"pictures": True}, {"guidance": None}, {"guidance": float("nan")}]
calls += [lambda given=given: efface.guided(pipe, **{"guides": cat, "prompts": "a", **given})
          for given in tried]
suite = suite_for("basic", efface.request("pistol"))
calls += [lambda: efface.evaluate(pipe, "x", suite, None, store="x"),
          lambda: efface.evaluate(pipe, delta, "smoke", None, store="x"),
          lambda: efface.evaluate(pipe, delta, suite, "emoji", store="x"),
          lambda: efface.evaluate(pipe, delta, suite, None, store=None),
          lambda: efface.evaluate(pipe, delta, suite, None, store="x", guides=3)]
for call in calls:
    try:
        print("taken", call())
    except EffaceError as error:
        assert "\\n" not in str(error)
"""


@pytest.mark.thorough
def test_no_argument_of_another_type_is_taken_or_fails_deep_inside():
    done = subprocess.run(
        [sys.executable, "-c", TRIED], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-600:]
