"""Cases of guides."""

from tests.cases.kinds import GuideCase

CASES = (
    GuideCase(
        guide="a_star",
        settings={"among": ("cat", "dog", "a")},
        off={"step_size": 0.0},
        evaluations=12,
    ),
    GuideCase(
        guide="a_star",
        settings={"words": ("a",), "mask_from": "after", "layouts": ("a=0,0,0.5,1",), "until": 0.5},
        off={"normalised_step": 0.0},
        evaluations=12,
    ),
    # Two of four steps move latents; the first does so until a peak is reached, twice at most.
    GuideCase(
        guide="attend_and_excite",
        settings={
            "among": ("cat", "dog"),
            "refine_at": (0.0,),
            "refine_to": (0.9,),
            "refine_steps": 2,
        },
        off={"step_size": 0.0},
        evaluations=12,
    ),
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
