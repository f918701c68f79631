"""THE entry of a method into the tests: one `Case` or more per method, with golden numbers.

``change``, of the closed forms, comes from the literal loops: ``python -m tests.reference.golden``
prints it. ``weight_change``, of methods that train, is what the code gave when its invariants were
tested first (tests/methods); it guards against changes that nobody meant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from efface.concepts import Concept, ErasureRequest, request

PISTOL = Concept(name="pistol", synonyms=("revolver",))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One small run of a method that the conformance suite repeats from every side."""

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    host: str = "tiny_sd1"
    request: ErasureRequest
    golden: Mapping[str, float]
    seconds: float
    """Processor time, which a busy machine does not stretch."""

    @property
    def name(self) -> str:
        given = "-".join(str(value) for value in self.settings.values())
        return "-".join(part for part in (self.method, self.host, given) if part)


TRAINED = {"steps": 20, "batch": 4, "sampling_steps": 4, "trajectories": 4, "learning_rate": 2e-3}
TRAINED |= {"keep_weight": 10.0, "keep_trajectories": 4}
"""Settings that make a toy run of training short."""
ADVERSARIAL = {"parameters": "cross_attention", "keep_weight": 100.0, "retain_weight": 1.0}
ADVERSARIAL |= {"discriminator_rate": 1e-3}

CASES = (
    Case(
        method="uce",
        request=request(PISTOL, keep=["cat"]),
        golden={"change": 1.339305730},
        seconds=10.0,
    ),
    Case(
        method="uce",
        settings={"target": "prompt_without_concept"},
        host="tiny_sd2",
        request=request("van gogh", kind="style", anchor="art", keep=["monet"]),
        golden={"change": 0.827677279},
        seconds=10.0,
    ),
    Case(
        method="rece",
        settings={"rounds": 2},
        request=request(PISTOL, keep=["cat"]),
        golden={"change": 1.224494193},
        seconds=10.0,
    ),
    Case(
        method="rece",
        settings={"rounds": 1, "rows": "erased", "target": "prompt_without_concept"},
        host="tiny_sd2",
        request=request(["van gogh", "monet"], kind="style", anchor="art", keep=["cat"]),
        golden={"change": 1.299235980},
        seconds=10.0,
    ),
    Case(
        method="trce",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"change": 0.272367053},
        seconds=10.0,
    ),
    Case(
        method="trce",
        host="tiny_sd2",
        request=request(["van gogh", "monet"], kind="style", anchor="art", keep=["cat"]),
        golden={"change": 0.556765917},
        seconds=10.0,
    ),
    Case(
        method="realera",
        settings={"neighbours": "moments"},
        request=request(PISTOL, keep=["cat"]),
        golden={"change": 0.392593635},
        seconds=10.0,
    ),
    Case(
        method="uce",
        host="tiny_sdxl",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"change": 0.756317401},
        seconds=20.0,
    ),
    Case(
        method="uce",
        host="tiny_sd3",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"change": 2.715040621},
        seconds=20.0,
    ),
    Case(
        method="uce",
        host="tiny_flux",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"change": 1.617330468},
        seconds=20.0,
    ),
    Case(
        method="rece",
        settings={"rounds": 1},
        host="tiny_sdxl",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"change": 1.539126263},
        seconds=20.0,
    ),
    Case(
        method="rece",
        settings={"rounds": 1},
        host="tiny_flux",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"change": 4.324315908},
        seconds=20.0,
    ),
    Case(
        method="rece",
        settings={"rounds": 1},
        host="tiny_sd3",
        request=request("pistol", keep=["cat"]),
        golden={"change": 1.302394878},
        seconds=20.0,
    ),
    Case(
        method="uce",
        host="tiny_pixart",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"change": 0.615895679},
        seconds=20.0,
    ),
    Case(
        method="rece",
        settings={"rounds": 1},
        host="tiny_pixart",
        request=request("pistol", keep=["cat"]),
        golden={"change": 1.478088120},
        seconds=20.0,
    ),
    Case(
        method="esd",
        settings=TRAINED,
        request=request(PISTOL, keep=["cat"]),
        golden={"weight_change": 0.046044265},
        seconds=20.0,
    ),
    Case(
        method="esd",
        settings=TRAINED | {"parameters": "not_cross_attention", "latents": "student"},
        host="tiny_sd2",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"weight_change": 0.066528505},
        seconds=20.0,
    ),
    Case(
        method="esd",
        settings=TRAINED | {"parameters": "key_value"},
        host="tiny_sdxl",
        request=request("pistol", keep=["cat"]),
        golden={"weight_change": 0.079771780},
        seconds=20.0,
    ),
    Case(
        method="esd",
        settings=TRAINED | {"parameters": "layers"},
        host="tiny_sd3",
        request=request("pistol", keep=["cat"]),
        golden={"weight_change": 0.061845413},
        seconds=20.0,
    ),
    Case(
        method="esd",
        settings=TRAINED,
        host="tiny_flux",
        request=request("pistol", keep=["cat"]),
        golden={"weight_change": 0.093740338},
        seconds=20.0,
    ),
    Case(
        method="concept_ablation",
        settings=TRAINED,
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"weight_change": 0.028424034},
        seconds=20.0,
    ),
    Case(
        method="concept_ablation",
        settings=TRAINED | {"loss": "noise", "parameters": "unet"},
        host="tiny_sd2",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"weight_change": 0.064594633},
        seconds=20.0,
    ),
    Case(
        method="concept_ablation",
        settings=TRAINED | {"teacher": "current", "parameters": "cross_attention"},
        host="tiny_sdxl",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"weight_change": 0.036061463},
        seconds=20.0,
    ),
    Case(
        method="concept_ablation",
        settings=TRAINED | {"parameters": "self_attention"},
        host="tiny_flux",
        request=request("pistol", keep=["cat"]),
        golden={"weight_change": 0.091029992},
        seconds=20.0,
    ),
    Case(
        method="concept_ablation",
        settings=TRAINED | {"parameters": "self_attention"},
        host="tiny_sd3",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"weight_change": 0.059531772},
        seconds=20.0,
    ),
    Case(
        method="all_but_one",
        settings=TRAINED | {"mode": "negate"},
        request=request(PISTOL, keep=["cat"]),
        golden={"weight_change": 0.060617309},
        seconds=20.0,
    ),
    Case(
        method="all_but_one",
        settings=TRAINED | {"constraint": "projection"},
        host="tiny_sd2",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"weight_change": 0.041153060},
        seconds=20.0,
    ),
    Case(
        method="all_but_one",
        settings=TRAINED | {"detach_unconditional": False, "parameters": "self_attention"},
        host="tiny_sdxl",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"weight_change": 0.027376653},
        seconds=20.0,
    ),
    Case(
        method="doco",
        settings=TRAINED | ADVERSARIAL | {"warm_up": 30, "surgery": "each"},
        request=request("pistol", keep=["cat"]),
        golden={"weight_change": 0.033586225},
        seconds=20.0,
    ),
    Case(
        method="doco",
        settings=TRAINED
        | ADVERSARIAL
        | {"warm_up": 30, "parameters": "unet", "norm": "group", "latest": 0.6},
        host="tiny_sd2",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"weight_change": 0.055069538},
        seconds=20.0,
    ),
    Case(
        method="doco",
        settings=TRAINED | ADVERSARIAL | {"warm_up": 10, "surgery": "each"},
        host="tiny_sdxl",
        request=request("pistol", keep=["cat"]),
        golden={"weight_change": 0.039107399},
        seconds=20.0,
    ),
    Case(
        method="ant",
        settings=TRAINED | {"before": 0.3, "maps": 2, "map_batches": 2},
        request=request("pistol", keep=["cat"]),
        golden={"weight_change": 0.029651410},
        seconds=20.0,
    ),
    Case(
        method="ant",
        settings=TRAINED
        | {"before": 0.3, "preserve_side": "late", "mask_share": 1.0, "parameters": "key_value"},
        host="tiny_sd2",
        request=request("pistol", keep=["cat"]),
        golden={"weight_change": 0.063271016},
        seconds=20.0,
    ),
    Case(
        method="ant",
        settings=TRAINED | {"before": 0.3, "maps": 2, "map_batches": 2, "mask_keeps": "bottom"},
        host="tiny_sdxl",
        request=request("pistol", keep=["cat"]),
        golden={"weight_change": 0.035861360},
        seconds=20.0,
    ),
    Case(
        method="trce_vision",
        settings=TRAINED | {"hold_trajectories": 2, "steering": 2.0},
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"weight_change": 0.020982834},
        seconds=20.0,
    ),
    Case(
        method="trce_vision",
        settings=TRAINED | {"hold_trajectories": 2, "parameters": "queries"},
        host="tiny_sdxl",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"weight_change": 0.072870034},
        seconds=20.0,
    ),
    Case(
        method="trce_vision",
        settings=TRAINED | {"hold_trajectories": 2, "steering": 2.0, "parameters": "unet"},
        host="tiny_flux",
        request=request("pistol", keep=["cat"]),
        golden={"weight_change": 0.052383099},
        seconds=20.0,
    ),
)
