"""The erasure card as plain values: what ``card.json`` holds, and every other card is made of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from efface.evaluation.encoding import encoded
from efface.evaluation.record import Evaluation, Measurement
from efface.evaluation.samples import GOING, STAYING
from efface.files import write_atomically
from efface.printable import printable
from efface.reports import wording
from efface.reports.card_text import card_text
from efface.reports.facts import RunFacts
from efface.reports.limits import limits
from efface.reports.model_words import words_for
from efface.reports.robustness import attack_lines, card_robustness, hardest, tested

__all__ = ["CARD_FORMAT", "card_values", "write_json_card", "write_model_card"]

CARD_FORMAT = 2
"""1 had no ``publishing``, ``not_tested``, ``uses`` and ``shown``."""
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def card_values(evaluation: Evaluation, facts: RunFacts) -> dict[str, Any]:
    """Gathers everything an audit asks for, as plain values.

    Identity with hashes before and after, scope, change, efficacy, robustness by attacker access,
    collateral, cost, limits, licence, and how to reproduce it. What was not measured says so.
    """
    rows = evaluation.measurements
    values = {
        "format": CARD_FORMAT,
        "model_kind": evaluation.model_kind,
        "verdict": evaluation.verdict,
        "outcome": evaluation.outcome,
        "outcome_limits": evaluation.limits,
        "reasons": evaluation.reasons,
        "summary": wording.headline(evaluation),
        "identity": _identity(evaluation, facts),
        "scope": {
            "erased": facts.erased or [{"name": name} for name in evaluation.erased],
            "anchors": facts.anchors,
            "kept": facts.kept,
            "suite": evaluation.suite,
            "guides": json.loads((evaluation.after and evaluation.after.guides) or "[]"),
            "prompts": sorted({sample.prompt for sample in evaluation.samples}),
        },
        "change": {
            "method": facts.method,
            "settings": facts.settings,
            "tensors": len(evaluation.changed),
            "parameters": evaluation.parameters_touched,
            "reversible": True,
            "diagnostics": facts.diagnostics,
        },
        "went_to": evaluation.sightings,
        "efficacy": [row for row in rows if row.role in GOING],
        "collateral": [row for row in rows if row.role in STAYING],
        "robustness": card_robustness(facts.attacks),
        "robustness_summary": hardest(facts.attacks),
        "judge": evaluation.judge,
        "instruments": evaluation.instruments,
        "instrument_hashes": evaluation.identities,
        "notes": evaluation.notes,
        "controls": evaluation.controls,
        "cost": {
            "erasure": {"seconds": facts.seconds, "peak_bytes": facts.peak_bytes},
            **evaluation.costs,
        },
        "limits": limits(evaluation, tested(facts.attacks)),
        "not_tested": _not_tested(evaluation, facts),
        "licence": "that of the base model, with all its restrictions; efface adds none",
        "publishing": _publishing(evaluation, facts),
        "uses": _uses(evaluation, facts),
        "shown": _shown(evaluation, facts),
        "reproduce": _reproduce(evaluation, facts),
    }
    plain: dict[str, Any] = encoded(values)
    return plain


def _identity(evaluation: Evaluation, facts: RunFacts) -> dict[str, Any]:
    return {
        "base_model": facts.base_model,
        "base": evaluation.before.model,
        "delta": evaluation.after.delta if evaluation.after else None,
        "parents": facts.parents,
        "tensors": evaluation.changed,
    }


def _reproduce(evaluation: Evaluation, facts: RunFacts) -> dict[str, Any]:
    return {
        "command": facts.command,
        "seed": facts.seed,
        "steps": evaluation.before.steps,
        "guidance": evaluation.before.guidance,
        "versions": evaluation.versions,
        "measured": evaluation.created,
    }


def _publishing(evaluation: Evaluation, facts: RunFacts) -> dict[str, Any]:
    """Gathers what hubs ask for; licence and languages are those that the base's card says."""
    words, base = words_for(evaluation), facts.base_card
    english = ("en",) if evaluation.model_kind == "generator" else ()
    erased = evaluation.outcome is not None and evaluation.outcome.name == "erased"
    return {
        "license": base.licence or None,
        "license_name": base.licence_name or None,
        "license_link": base.licence_link or None,
        "base_model": facts.base_model if _is_hub_name(facts.base_model) else None,
        "base_model_relation": "adapter",
        "language": list(base.languages or english),
        "library_name": words.library,
        "pipeline_tag": words.task,
        "tags": ["concept-erasure", "efface", *([facts.method] if facts.method else [])],
        # One line, so that no name can end the block of metadata.
        "model_name": printable(" ".join(_named(evaluation, erased=erased).split())),
    }


def _uses(evaluation: Evaluation, facts: RunFacts) -> dict[str, list[str]]:
    """Says what the edit is for, and what it must not be taken for."""
    what = wording.subject(evaluation)
    base = facts.base_model or "the base model"
    return {
        "intended": [
            f"Whatever {base} is used for, where {what} is not wanted, beside the filters that "
            "its licence asks for.",
            "Study of concept erasure: the edit can be taken off, measured and made again.",
        ],
        "out_of_scope": [
            f"As the only safeguard against {what}: what was not tested is listed below.",
            "As proof that something was never learnt, or that a request to delete it is met.",
            f"Anything that the licence of {base} forbids.",
        ],
    }


def _not_tested(evaluation: Evaluation, facts: RunFacts) -> list[dict[str, str]]:
    """Lists what no number on the card is about, by kind; ``id`` stays the same between cards."""
    known = tested(facts.attacks)
    found = [
        {"kind": "attack", "id": access.replace(" ", "_"), "what": what}
        for access, what in wording.NOT_TESTED.items()
        if evaluation.model_kind == "generator" and access not in known
    ]
    found += [
        {"kind": "condition", "id": f"{evaluation.model_kind}_{number}", "what": what}
        for number, what in enumerate(words_for(evaluation).not_tested, 1)
    ]
    if evaluation.model_kind == "generator":
        source = evaluation.before
        sampling = f"{source.steps} steps and guidance {source.guidance:g}"
        found.append(
            {"kind": "condition", "id": "sampling", "what": f"sampling other than with {sampling}"}
        )
    wanted = [role for role in GOING if role != "earlier"]
    measured = {row.role for row in evaluation.measurements}
    found += [
        {"kind": "role", "id": role, "what": words_for(evaluation).role(role)}
        for role in (*wanted, *STAYING)
        if role not in measured and evaluation.model_kind == "generator"
    ]
    return found


def _shown(evaluation: Evaluation, facts: RunFacts) -> dict[str, Any]:
    """Gathers the sentences and cells of the card for people."""
    outcome = evaluation.outcome
    return {
        "title": wording.title(evaluation, facts.base_model),
        "subject": wording.subject(evaluation),
        "meaning": wording.VERDICTS[evaluation.verdict],
        "outcome_meaning": wording.meaning(evaluation) if outcome else "",
        "rows": [_cells(row) for row in evaluation.measurements if row.concept is None],
        "attacks": attack_lines(facts.attacks),
        "results": _results(evaluation) if evaluation.verdict == "valid" else [],
    }


def _results(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Lists the numbers that hubs show without context, so of valid measurements alone."""
    found = []
    for row in evaluation.measurements:
        estimate = row.after or (row.change if row.before is None else row.before)
        if row.concept is not None or estimate is None:
            continue
        name = f"{wording.named(row.metric)} ({wording.interval(estimate, row.unit)})"
        found.append(
            {"role": row.role, "metric": row.metric, "value": estimate.value, "name": name}
        )
    return found


def write_json_card(path: Path, evaluation: Evaluation, facts: RunFacts) -> Path:
    """Writes ``card.json`` in one step."""
    text = json.dumps(card_values(evaluation, facts), indent=1, allow_nan=False)
    write_atomically(path, (text + "\n").encode())
    return path


def write_model_card(path: Path, evaluation: Evaluation, facts: RunFacts) -> Path:
    """Writes ``card.md``, made of the same values as ``card.json``; see `card_text`."""
    write_atomically(path, card_text(card_values(evaluation, facts)).encode())
    return path


def _named(evaluation: Evaluation, *, erased: bool) -> str:
    what = wording.subject(evaluation)
    if erased:
        return f"{what} erased"
    name = evaluation.outcome.name if evaluation.outcome else "before any erasure"
    return f"{what}: {name}"


def _is_hub_name(base_model: str) -> bool:
    """Tells ``owner/name`` from a folder, which the hub would refuse as a base model."""
    return bool(_HUB_NAME.fullmatch(base_model)) and not Path(base_model).exists()


def _cells(row: Measurement) -> dict[str, str]:
    distance = row.change if row.before is None else None
    after = row.after or distance
    return {
        "metric": row.metric,
        "role": wording.ROLES[row.role].lower(),
        "before": _with_interval(row, row.before),
        "after": _with_interval(row, after),
        "change": "" if distance else wording.change(row),
        "better": row.better,
    }


def _with_interval(row: Measurement, estimate: Any) -> str:
    if estimate is None:
        return ""
    return f"{wording.value(estimate, row.unit)} ({wording.interval(estimate, row.unit)})"
