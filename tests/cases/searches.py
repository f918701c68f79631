"""Cases of searches."""

from tests.cases.kinds import SearchCase

CASES = (
    SearchCase(search="worst_case", settings={"rounds": 4, "step": 0.7}),
    SearchCase(
        search="worst_case",
        settings={"rounds": 4, "step": 0.7, "scored": "all", "gamma": 0.01, "warm": True},
    ),
    SearchCase(search="worst_case", settings={"rounds": 4, "scale": "ranks", "start": "random"}),
    SearchCase(search="crossfit", settings={"folds": 3, "repeats": 2}),
)
