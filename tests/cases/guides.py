"""Cases of guides."""

from tests.cases.kinds import GuideCase

CASES = (
    # One evaluation more than plain sampling, to see whether the text does anything.
    GuideCase(guide="nag", settings={"text": "a red house"}, off={"blend": 0.0}, evaluations=9),
    GuideCase(guide="negative", settings={"text": "a red house"}, evaluations=9),
    GuideCase(
        guide="safree",
        settings={"concepts": ("cat", "dog"), "sensitivity": 0.0},
        off={"strength": 0.0},
        evaluations=9,
    ),
    GuideCase(
        guide="sega",
        settings={"remove": ("a red house",), "add": ("dog",), "starts": (0.0,)},
        off={"scales": (0.0,)},
        evaluations=16,
    ),
    GuideCase(
        guide="sega",
        settings={"remove": ("a red house",), "starts": (0.5,), "momentum_scale": 0.0},
        off={"scales": (0.0,)},
        evaluations=10,
    ),
    GuideCase(
        guide="sld",
        settings={"concepts": ("a red house",), "warm_up": 0.0},
        off={"strength": 0.0},
        evaluations=12,
    ),
    GuideCase(
        guide="sld",
        settings={"concepts": ("a red house", "dog"), "warm_up": 0.5, "momentum_scale": 0.0},
        off={"strength": 0.0},
        evaluations=12,
    ),
)
