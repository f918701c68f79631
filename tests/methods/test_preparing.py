"""What comes before the steps of a training says how far it is."""

import pytest

from efface.training.session import Session
from tests.methods.trained import TO_LAMP, ran

POOL = {"trajectories": 2, "steps": 1, "keep_weight": 0.0}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("concept_ablation", {}, [("drawing pictures", 2, 2)]),
        (
            "doco",
            {"warm_up": 3, "norm": "group"},
            [("drawing pictures", 2, 2)]
            + [("teaching the discriminator", done, 3) for done in (1, 2, 3)],
        ),
        (
            "ant",
            {"maps": 2, "map_batches": 1, "mask_share": 0.5},
            [("finding salient weights", done, 2) for done in (1, 2)],
        ),
    ],
)
def test_every_preparation_is_told(tiny_sd1, method, settings, expected):
    heard = []
    session = Session(report=lambda *told: heard.append(told))
    ran(method, tiny_sd1, TO_LAMP, monitor=session, **(POOL | settings))
    assert [told for told in heard if told[0] != "sampling trajectories"] == expected
