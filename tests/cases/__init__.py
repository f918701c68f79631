"""THE entry of anything into the tests: one case or more for everything that the registry finds.

A file for each kind: `closed` and `trained` (methods), `attacks`, `guides`, `searches`, `judges`,
`metrics`, `hosts`, `vision` (hosts that read pictures), `forgetting` (methods for those). The
suites in tests/conformance find their cases here and fail where something has none. Another package
whose methods, attacks, guides, searches, judges, metrics or families are installed names the module
with its cases by an entry point of the group ``efface.cases``; its ``CASES`` may be of any kind.
"""

from importlib.metadata import entry_points

from tests.cases import (
    attacks,
    closed,
    forgetting,
    guides,
    hosts,
    judges,
    metrics,
    searches,
    trained,
    vision,
)
from tests.cases.kinds import (
    PISTOL,
    AttackCase,
    Case,
    ForgettingCase,
    GuideCase,
    HostCase,
    JudgeCase,
    MetricCase,
    SearchCase,
    VisionCase,
)
from tests.cases.trained import TRAINED

__all__ = [
    "ATTACK_CASES",
    "CASES",
    "FORGETTING_CASES",
    "GUIDE_CASES",
    "HOST_CASES",
    "JUDGE_CASES",
    "METRIC_CASES",
    "PISTOL",
    "SEARCH_CASES",
    "TRAINED",
    "VISION_CASES",
    "Case",
    "all_of",
]


def all_of(kind, *ours):
    """Collects the cases of a kind, with those of other packages."""
    others = [point.load().CASES for point in entry_points(group="efface.cases")]
    return tuple(case for cases in (*ours, *others) for case in cases if isinstance(case, kind))


CASES = all_of(Case, closed.CASES, trained.CASES)
"""Of methods that erase."""
FORGETTING_CASES = all_of(ForgettingCase, forgetting.CASES)
"""Of methods that make models which read pictures forget classes."""
ATTACK_CASES = all_of(AttackCase, attacks.CASES)
GUIDE_CASES = all_of(GuideCase, guides.CASES)
SEARCH_CASES = all_of(SearchCase, searches.CASES)
HOST_CASES = all_of(HostCase, hosts.CASES)
JUDGE_CASES = all_of(JudgeCase, judges.CASES)
METRIC_CASES = all_of(MetricCase, metrics.CASES)
VISION_CASES = all_of(VisionCase, vision.CASES)
"""Of models that read pictures."""
