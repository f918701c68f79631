"""Runs the experiments that have no result yet.

python -m benchmarks [presets] [erasure] [mass] [closed_form] [debias] [training] [together]
                     [transfer] [implicit] [cost] [alone] [true_size] [tradeoff] [collapse]
                     [few_shot] [advunlearn] [advunlearn_attacks] [advunlearn_tuning] [gate]
                     [harden] [threads] [leftover] [leftover_methods] [robustness] [row_map]
                     [forgetting] [forgetting_tuning] [forgetting_tradeoff] [fashion]
                     [forgetting_detector] [hardest_prompts] [hardest_pictures] [guide_cost]
                     [guide_pictures] [guards] [composition] [scheduling] [ray_workers]
                     [repair] [ensembles] [kept_pairs]
python -m benchmarks submit FILE|METHOD        measures it for docs/leaderboard.md
python -m benchmarks --check [ROWS] [SEED]     runs committed results again and compares
"""

from __future__ import annotations

import sys

from benchmarks import (
    advunlearn,
    advunlearn_attacks,
    alone,
    check,
    closed_form,
    collapse,
    composition,
    cost,
    debias,
    ensembles,
    erasure,
    fashion,
    few_shot,
    forgetting,
    forgetting_detector,
    forgetting_tradeoff,
    forgetting_tuning,
    gate,
    guides,
    harden,
    hardest_pictures,
    hardest_prompts,
    implicit,
    kept_pairs,
    leftover,
    mass,
    presets,
    ray_workers,
    repair,
    robustness,
    row_map,
    scheduling,
    submit,
    threads,
    together,
    tradeoff,
    training,
    transfer,
    true_size,
)

EXPERIMENTS = {
    "presets": presets.run,
    "erasure": erasure.run,
    "mass": mass.run,
    "closed_form": closed_form.run,
    "collapse": collapse.run,
    "composition": composition.run,
    "debias": debias.run,
    "training": training.run,
    "together": together.run,
    "transfer": transfer.run,
    "implicit": implicit.run,
    "cost": cost.run,
    "alone": alone.run,
    "true_size": true_size.run,
    "tradeoff": tradeoff.run,
    "few_shot": few_shot.run,
    "fashion": fashion.run,
    "forgetting": forgetting.run,
    "forgetting_detector": forgetting_detector.run,
    "forgetting_tradeoff": forgetting_tradeoff.run,
    "forgetting_tuning": forgetting_tuning.run,
    "gate": gate.run,
    "guide_cost": guides.costs,
    "guide_pictures": guides.pictures,
    "guards": guides.guards,
    "harden": harden.run,
    "hardest_prompts": hardest_prompts.run,
    "repair": repair.run,
    "kept_pairs": kept_pairs.run,
    "ensembles": ensembles.run,
    "hardest_pictures": hardest_pictures.run,
    "leftover": leftover.run,
    "leftover_methods": leftover.methods,
    "ray_workers": ray_workers.run,
    "robustness": robustness.run,
    "scheduling": scheduling.run,
    "row_map": row_map.run,
    "advunlearn": advunlearn.run,
    "advunlearn_attacks": advunlearn_attacks.run,
    "advunlearn_tuning": advunlearn.tune,
    "threads": threads.run,
}


def main() -> None:
    """Runs those named on the command line, or all."""
    wanted = sys.argv[1:] or list(EXPERIMENTS)
    if wanted[0] == "--check":
        raise SystemExit(check.run(wanted[1:]))
    if wanted[0] == "submit":
        submit.run(wanted[1:])
        return
    if wanted[0] == "presets" and wanted[1:] and not set(wanted[1:]) & set(EXPERIMENTS):
        presets.run(wanted[1:])
        return
    if unknown := [name for name in wanted if name not in EXPERIMENTS]:
        raise SystemExit(f"no experiment called {unknown[0]}; known: {', '.join(EXPERIMENTS)}")
    for name in wanted:
        EXPERIMENTS[name]()


if __name__ == "__main__":
    main()
