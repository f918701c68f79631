"""THE entry of anything into the tests: one case or more for everything that the registry finds.

A file for each kind: `closed` and `trained` (methods), `judges`, `metrics`, `hosts`. The suites in
tests/conformance find their cases here and fail where something has none.
"""

from tests.cases import closed, hosts, judges, metrics, trained
from tests.cases.kinds import PISTOL, Case
from tests.cases.trained import TRAINED

__all__ = [
    "CASES",
    "HOST_CASES",
    "JUDGE_CASES",
    "METRIC_CASES",
    "PISTOL",
    "TRAINED",
    "Case",
]

CASES = (*closed.CASES, *trained.CASES)
"""Of methods that erase."""
HOST_CASES = hosts.CASES
JUDGE_CASES = judges.CASES
METRIC_CASES = metrics.CASES
