"""Candidates for the bundled model's presets of methods that train; see `benchmarks.presets`."""

from __future__ import annotations

from typing import Any

from efface.runs.gradient_eraser import SMALL as COMMON

__all__ = ["AFTER", "TRAINED"]

AFTER: dict[str, str] = {"trce_vision": "trce", "realera_noise": "realera"}
"""Second stages are chosen on top of their first, with the first one's preset."""

PLAIN: dict[str, Any] = {"weight_decay": 0.0}
KEYS: dict[str, Any] = {"parameters": "key_value"}
ADVERSARIAL: dict[str, Any] = PLAIN | {"trajectories": 96, "warm_up": 100, "norm": "group"}
ADVERSARIAL |= {"discriminator_rate": 5e-4, "latest": 0.7, "retain_weight": 1.0, "batch": 8}
TURNED: dict[str, Any] = {"negative_guidance": 2.0, "batch": 4}
UNMASKED: dict[str, Any] = KEYS | {"mask_share": 1.0}
LONGER: dict[str, Any] = {"before": 0.05, "steps": 240}
FROM_ANCHOR: dict[str, Any] = {"early_weight": 0.1, "turned_from": "anchor", "keep_weight": 30.0}
STEERED: dict[str, Any] = PLAIN | {"steering": 2.0, "hold_weight": 30.0, "hold_trajectories": 12}
STEERED |= {"batch": 4}
LAYERS: dict[str, Any] = PLAIN | {"rank": 4, "beyond_weight": 3.0, "learning_rate": 2e-2}
LOOSER: dict[str, Any] = {"beyond_weight": 0.3, "learning_rate": 5e-3}
MEMBRANES: dict[str, Any] = PLAIN | {"calibrated": True, "anchors": 1, "learning_rate": 1e-2}
MEMBRANES |= {"keep_batch": 10, "batch": 8}

TRAINED: dict[str, tuple[dict[str, Any], ...]] = {
    "esd": (
        COMMON | KEYS | {"keep_weight": 30.0},
        COMMON | KEYS | {"keep_weight": 100.0},
        COMMON | KEYS | {"keep_weight": 60.0, "steps": 240},
        COMMON | KEYS | {"keep_weight": 100.0, "steps": 240},
    ),
    "spm": (
        COMMON | MEMBRANES | {"keep_weight": 3.0, "anchoring": 30.0},
        COMMON | MEMBRANES | {"keep_weight": 1.0, "anchoring": 10.0},
    ),
    "concept_ablation": (
        COMMON | PLAIN | {"keep_weight": 15.0},
        COMMON | PLAIN | {"keep_weight": 30.0},
        COMMON | PLAIN | {"keep_weight": 30.0, "steps": 240},
        COMMON | PLAIN | {"keep_weight": 60.0, "steps": 240},
        COMMON | PLAIN | {"keep_weight": 15.0, "steps": 240},
        COMMON | PLAIN | {"keep_weight": 30.0, "steps": 240, "learning_rate": 4e-3},
        COMMON | PLAIN | {"keep_weight": 20.0, "steps": 240},
        COMMON | PLAIN | {"keep_weight": 30.0, "steps": 360},
        COMMON | PLAIN | {"keep_weight": 15.0, "steps": 240, "keep_trajectories": 192},
        COMMON | PLAIN | {"keep_weight": 15.0, "steps": 360, "keep_trajectories": 192},
        COMMON | PLAIN | {"keep_weight": 15.0, "steps": 240, "keep_unconditional": 0.25},
        COMMON | PLAIN | {"keep_weight": 30.0, "steps": 240, "keep_unconditional": 0.25},
    ),
    "all_but_one": (
        COMMON | {"keep_weight": 15.0},
        COMMON | {"keep_weight": 30.0},
        COMMON | {"keep_weight": 60.0, "mode": "negate"},
        COMMON | {"keep_weight": 10.0, "constraint": "projection"},
    ),
    "doco": (
        COMMON | ADVERSARIAL | {"keep_weight": 60.0},
        COMMON | ADVERSARIAL | {"keep_weight": 200.0},
        COMMON | ADVERSARIAL | {"keep_weight": 200.0, "draws": 4},
        COMMON | ADVERSARIAL | {"keep_weight": 400.0, "steps": 240},
        COMMON | ADVERSARIAL | {"keep_weight": 200.0, "steps": 240},
        COMMON | ADVERSARIAL | {"keep_weight": 200.0, "keep_trajectories": 192},
        COMMON | ADVERSARIAL | {"keep_weight": 200.0, "keep_unconditional": 0.25},
        COMMON | ADVERSARIAL | {"keep_weight": 300.0, "keep_unconditional": 0.25, "steps": 180},
        COMMON | ADVERSARIAL | {"keep_weight": 300.0, "keep_unconditional": 0.25},
        COMMON | ADVERSARIAL | {"keep_weight": 200.0, "keep_trajectories": 192, "steps": 180},
        COMMON | ADVERSARIAL | {"keep_weight": 200.0, "latest": 0.85},
        COMMON | ADVERSARIAL | {"keep_weight": 120.0, "keep_trajectories": 192},
        COMMON | ADVERSARIAL | {"keep_weight": 200.0, "keep_batch": 40},
        COMMON | ADVERSARIAL | {"keep_weight": 300.0, "latest": 1.0},
    ),
    "ant": (
        COMMON | TURNED | UNMASKED | {"keep_weight": 10.0},
        COMMON | TURNED | UNMASKED | {"keep_weight": 10.0, "before": 0.05},
        COMMON | TURNED | UNMASKED | {"keep_weight": 30.0, "before": 0.05},
        COMMON | TURNED | {"keep_weight": 10.0, "before": 0.05, "maps": 2, "map_batches": 3},
        COMMON | TURNED | UNMASKED | {"keep_weight": 30.0, "before": 0.05, "early_weight": 0.1},
        COMMON | TURNED | UNMASKED | LONGER | {"keep_weight": 30.0, "early_weight": 0.1},
        COMMON | TURNED | UNMASKED | LONGER | FROM_ANCHOR | {"target": "anchor"},
    ),
    "trce_vision": (
        COMMON | STEERED | {"keep_weight": 30.0, "learning_rate": 1e-3},
        COMMON | STEERED | {"keep_weight": 60.0},
    ),
    "realera_noise": (
        COMMON | LAYERS | {"keep_weight": 10.0},
        COMMON | LAYERS | {"keep_weight": 30.0},
        COMMON | LAYERS | {"keep_weight": 10.0, "learning_rate": 5e-3},
        COMMON | LAYERS | {"keep_weight": 30.0, "learning_rate": 5e-3},
        COMMON | LAYERS | {"keep_weight": 100.0, "learning_rate": 5e-3},
        COMMON | LAYERS | {"keep_weight": 100.0, "learning_rate": 2e-3},
        COMMON | LAYERS | LOOSER | {"keep_weight": 100.0},
        COMMON | LAYERS | LOOSER | {"keep_weight": 30.0},
        COMMON | LAYERS | LOOSER | {"keep_weight": 100.0, "beyond_weight": 0.1},
        COMMON | LAYERS | LOOSER | {"keep_weight": 100.0, "learning_rate": 2e-3},
        COMMON | LAYERS | LOOSER | {"keep_weight": 100.0, "learning_rate": 1e-3},
        COMMON | LAYERS | {"keep_weight": 100.0, "learning_rate": 2e-3, "beyond_weight": 0.1},
    ),
}
