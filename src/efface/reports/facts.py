"""What every report says about a run, gathered once: scope, method, cost, how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from efface.errors import BadRequest
from efface.evaluation.encoding import encoded
from efface.evaluation.record import Evaluation
from efface.evaluation.revival import AttackRecord
from efface.hosts.licences import BaseCard, base_card
from efface.runs.recipe_records import recipe_from

if TYPE_CHECKING:
    from efface.deltas.results import ErasureResult

__all__ = ["RunFacts", "run_facts"]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The erasure itself, as far as it is known; an evaluation can be reported without it."""

    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    base_model: str = ""
    parents: tuple[str, ...] = ()
    erased: tuple[Mapping[str, Any], ...] = ()
    """Concepts as plain values: name, kind, prompts, synonyms."""
    anchors: tuple[str, ...] = ()
    """Where each of them was steered; empty text is the empty prompt."""
    kept: tuple[str, ...] = ()
    seconds: float | None = None
    peak_bytes: int | None = None
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    attacks: tuple[AttackRecord, ...] = ()
    """Attacks on this very delta."""
    base_card: BaseCard = field(default_factory=BaseCard)
    """What the base's own card says of licence and languages."""
    command: str = ""
    """What repeats the erasure; empty when the method is not known."""


def run_facts(
    evaluation: Evaluation, run: ErasureResult | Mapping[str, Any] | None = None
) -> RunFacts:
    """Gathers what is known from the delta's provenance and from the run, if it is given.

    Args:
        evaluation: carries the provenance of the delta that it measured.
        run: the result of the erasure, or the content of its ``run.json``; under ``attacks`` it may
            hold records of attacks.
    """
    held = _run(run)
    told: Mapping[str, Any] = evaluation.provenance or held
    request = told.get("request") or {}
    erasures = [dict(one) for one in request.get("erasures", ())]
    delta = evaluation.after.delta if evaluation.after else None
    return RunFacts(
        method=str(told.get("method", "")),
        settings=encoded(told.get("settings", {})),
        seed=told.get("seed"),
        base_model=str(told.get("base_model", "")),
        parents=tuple(told.get("parents", ())),
        erased=tuple(one["concept"] for one in erasures),
        anchors=tuple((one.get("anchor") or {}).get("name", "") for one in erasures),
        kept=tuple(one["name"] for one in request.get("keep", ())),
        seconds=held.get("seconds"),
        peak_bytes=held.get("peak_bytes"),
        curves=held.get("curves") or {},
        diagnostics=encoded(held.get("diagnostics") or {}),
        attacks=tuple(one for one in held.get("attacks") or () if one.delta == delta),
        base_card=base_card(_place({**told, **held})),
        command=_command({**told, **held}),
    )


def _run(run: ErasureResult | Mapping[str, Any] | None) -> Mapping[str, Any]:
    if run is None or isinstance(run, Mapping):
        return run or {}
    named = ("seconds", "peak_bytes", "curves", "diagnostics", "recipe")
    return {**encoded(run.delta.provenance), **{name: getattr(run, name) for name in named}}


def _place(record: Mapping[str, Any]) -> str:
    """Gives the base as it was named: a bundled model, a folder or a hub id."""
    recipe = record.get("recipe")
    named = recipe.get("model") if isinstance(recipe, Mapping) else None
    return str(named or record.get("base_model", ""))


def _command(record: Mapping[str, Any]) -> str:
    """Writes the command that repeats a run; empty where its record does not say how."""
    try:
        return recipe_from(record).command()
    except (KeyError, TypeError, BadRequest):
        return ""
