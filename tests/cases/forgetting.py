"""Cases of methods that make models which read pictures forget classes.

Every method runs on a toy ViT that learnt striped pictures (`tests.pictures`), and forgets one of
six classes; detectors learnt squares (`tests.scenes`), and forget one of three. ``change`` guards
against changes that nobody meant.
"""

from tests.cases.kinds import ForgettingCase

QUICK = {"epochs": 6.0, "batch": 8}


def forgetting(
    method, change, *, kind="classifier", architecture=None, gone=True, within=1e-3, **settings
):
    """Makes a case; ``gone`` says whether a run this short must have forgotten."""
    return ForgettingCase(
        method=method,
        kind=kind,
        architecture=architecture,
        settings=QUICK | settings,
        change=change,
        gone=gone,
        within=within,
    )


CASES = (
    forgetting(
        "gs_lora", 0.547030407, rank=2, alpha=2.0, replay=1.0, forget_weight=1.0, epochs=20.0
    ),
    forgetting(
        "gs_lora",
        0.308064228,
        kind="recogniser",
        rank=2,
        alpha=2.0,
        replay=1.0,
        forget_weight=1.0,
        epochs=20.0,
        prototype_forget=0.1,
        prototype_retain=0.1,
        hinge="picture",
    ),
    forgetting(
        "gs_lora",
        0.299505552,
        kind="detector",
        within=0.15,  # What the toy learns first differs between processors.
        rank=2,
        alpha=4.0,
        replay=1.0,
        forget_weight=1.0,
        epochs=160.0,
        hinge="picture",
    ),
    forgetting("fine_tune", 0.00355222648, gone=False, learning_rate=1e-2),
    forgetting(
        "gradient_ascent",
        0.00217471378,
        gone=False,
        learning_rate=1e-2,
        retain_weight=0.5,
        epochs=20.0,
    ),
    forgetting("random_labels", 0.354844256, learning_rate=5e-2, exclude_true=True, epochs=12.0),
    forgetting(
        "boundary_shrink", 0.0347803357, gone=False, learning_rate=2e-2, epochs=20.0, step=1.0
    ),
    forgetting("boundary_expand", 0.143711024, learning_rate=2e-2, epochs=20.0, gone=False),
    forgetting("l1_sparse", 0.00731049236, learning_rate=1e-2, l1=1e-3, gone=False),
    forgetting("scrub", 0.101174361, learning_rate=5e-3, max_epochs=2),
    forgetting("bad_teacher", 0.202194152, learning_rate=5e-3),
    forgetting("last_layers", 1.2404543, learning_rate=1e-2, start="drawn", layers=2, gone=False),
    forgetting("retrain", 1.2299097, learning_rate=1e-2, epochs=12.0),
    forgetting(
        "selective_dampening", 0.289352841, selection=2.0, dampening=0.3, replay=1.0, gone=False
    ),
    forgetting("influence", 0.00498751541, damping=0.1, iterations=5, gone=False),
)
