"""Cases of attacks."""

from tests.cases.kinds import AttackCase

CASES = (
    AttackCase(attack="character_noise", settings={"tries": 2}),
    AttackCase(attack="closed_form_embedding", settings={"strengths": (0.01, 0.1)}),
    AttackCase(attack="component_swap", silent=True),
    AttackCase(attack="cut_location", settings={"shares": (0.1, 0.5)}),
    AttackCase(attack="gradient_reversal", settings={"shares": (0.5, 0.0)}),
    AttackCase(
        attack="greedy_coordinate",
        settings={"steps": 2, "candidates": 2, "top": 4, "batch": 2, "every": 1, "pictures": 2},
    ),
    AttackCase(
        attack="hard_prompt",
        settings={"steps": 2, "every": 1, "tokens": 2, "batch": 2, "pictures": 2},
    ),
    AttackCase(
        attack="image_to_image",
        settings={"strengths": (0.5,), "pictures": 2, "given_at_most": 1.0},
    ),
    AttackCase(attack="inpainting", settings={"pictures": 2, "tries": 2, "given_at_most": 0.99}),
    AttackCase(attack="judge_guidance", settings={"scales": (0.1, 0.2)}),
    AttackCase(attack="latent_inversion", settings={"pictures": 2, "steps": 2}),
    AttackCase(attack="noise_reinjection", settings={"shares": (0.5,), "rounds": 2}),
    AttackCase(
        attack="personalisation",
        settings={"pictures": 2, "tokens": 1, "rank": 1, "batch": 2, "marks": (1, 2)},
    ),
    AttackCase(attack="other_seeds", settings={"tries": 2}),
    AttackCase(attack="paraphrase", settings={"tries": 2}),
    AttackCase(attack="quantisation", settings={"bits": (4,), "pruned": (0.5,)}),
    AttackCase(attack="random_prefix", settings={"tries": 2, "tokens": 2}),
    AttackCase(
        attack="relearning",
        settings={"pictures": 2, "rank": 1, "batch": 2, "marks": (1, 2)},
    ),
    AttackCase(
        attack="ring_a_bell",
        settings={"tokens": 2, "steps": 2, "every": 1, "candidates": 2, "top": 4},
    ),
    AttackCase(
        attack="sampling_tricks",
        settings={"guidances": (1.0, 4.0), "steps": (3,), "reversed_guidances": (3.0,), "seeds": 1},
    ),
    AttackCase(
        attack="soft_prompt",
        settings={"steps": 4, "every": 2, "batch": 2, "pictures": 2, "tokens": 2},
    ),
    AttackCase(
        attack="stacking",
        settings={"scales": (1.0,), "steps": 2, "rank": 1, "batch": 2, "pictures": 2},
    ),
    AttackCase(
        attack="universal_prefix",
        settings={"steps": 2, "candidates": 2, "top": 4, "batch": 2, "every": 1, "pictures": 2},
    ),
    AttackCase(
        attack="unlearn_diff_atk",
        settings={"tokens": 2, "blocks": 2, "steps": 1, "batch": 2, "pictures": 2},
    ),
)
