"""Cases of attacks."""

from tests.cases.kinds import AttackCase

CASES = (
    AttackCase(attack="component_swap", silent=True),
    AttackCase(attack="random_prefix", settings={"tries": 2, "tokens": 2}),
    AttackCase(
        attack="soft_prompt",
        settings={"steps": 4, "every": 2, "batch": 2, "pictures": 2, "tokens": 2},
    ),
)
