"""The erasure card: as JSON for machines, as a Hugging Face model card for people."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from efface.evaluation.encoding import encoded
from efface.evaluation.record import Evaluation, Measurement
from efface.evaluation.samples import GOING, STAYING
from efface.files import write_atomically
from efface.printable import printable
from efface.reports import wording
from efface.reports.facts import RunFacts
from efface.reports.model_words import words_for
from efface.reports.robustness import attack_lines, card_robustness, hardest, tested

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

__all__ = ["CARD_FORMAT", "card_values", "write_json_card", "write_model_card"]

CARD_FORMAT = 1
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_MARKDOWN = re.compile(
    r"[&<>|`*~\[\]\\$]|@(?=[a-z])|^[#+=-]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.",
    re.IGNORECASE,
)
"""Signs that are or begin Markdown, links included; inside a word, as in clip_score, is none."""
_TEMPLATE = Path(__file__).parent / "templates" / "card.md"


def card_values(evaluation: Evaluation, facts: RunFacts) -> dict[str, Any]:
    """Gathers everything an audit asks for, as plain values.

    Identity with hashes before and after, scope, change, efficacy, robustness by attacker access,
    collateral, cost, limits, licence, and how to reproduce it. What was not measured says so.
    """
    rows = evaluation.measurements
    values = {
        "format": CARD_FORMAT,
        "verdict": evaluation.verdict,
        "outcome": evaluation.outcome,
        "outcome_limits": evaluation.limits,
        "reasons": evaluation.reasons,
        "summary": wording.headline(evaluation),
        "identity": {
            "base_model": facts.base_model,
            "base": evaluation.before.model,
            "delta": evaluation.after.delta if evaluation.after else None,
            "parents": facts.parents,
            "tensors": evaluation.changed,
        },
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
        "limits": wording.limits(evaluation, tested(facts.attacks)),
        "licence": "that of the base model, with all its restrictions; efface adds none",
        "reproduce": _reproduce(evaluation, facts),
    }
    plain: dict[str, Any] = encoded(values)
    return plain


def _reproduce(evaluation: Evaluation, facts: RunFacts) -> dict[str, Any]:
    return {
        "command": facts.command,
        "seed": facts.seed,
        "steps": evaluation.before.steps,
        "guidance": evaluation.before.guidance,
        "versions": evaluation.versions,
        "measured": evaluation.created,
    }


def write_json_card(path: Path, evaluation: Evaluation, facts: RunFacts) -> Path:
    """Writes ``card.json`` in one step."""
    text = json.dumps(card_values(evaluation, facts), indent=1, allow_nan=False)
    write_atomically(path, (text + "\n").encode())
    return path


def write_model_card(path: Path, evaluation: Evaluation, facts: RunFacts) -> Path:
    """Writes ``card.md``: a model card whose metadata huggingface_hub reads back as it is.

    Only a valid evaluation puts results into the metadata, since they are read without context.
    """
    from jinja2 import Environment, StrictUndefined
    from jinja2.utils import htmlsafe_json_dumps

    environment = Environment(finalize=_harmless, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["fenced"] = _fenced
    words = words_for(evaluation)
    body = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        evaluation=evaluation,
        facts=facts,
        title=wording.title(evaluation, facts.base_model),
        outcome=evaluation.outcome,
        outcome_meaning=wording.meaning(evaluation),
        subject=wording.subject(evaluation),
        words=words,
        code=Markup(words.code(_fenced(htmlsafe_json_dumps(facts.base_model or "BASE MODEL")))),
        headline=wording.headline(evaluation),
        meaning=wording.VERDICTS[evaluation.verdict],
        rows=[_cells(row) for row in evaluation.measurements if row.concept is None],
        limits=wording.limits(evaluation, tested(facts.attacks)),
        attacks=attack_lines(facts.attacks),
        hardest=hardest(facts.attacks),
    )
    metadata = _metadata(evaluation, facts).to_yaml()
    write_atomically(path, f"---\n{metadata}\n---\n\n{body}\n".encode())
    return path


def _harmless(value: Any) -> Any:
    """Escapes text, since hubs show Markdown as HTML and names and prompts are others' text.

    Signs of Markdown become numbers, which are shown as the sign and never read as Markdown.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", _one_line(value))


def _fenced(text: str) -> Markup:
    """Keeps code as it is, except for what could end its block."""
    return Markup(_one_line(text.replace("`", "'")))  # nothing of it is read as HTML


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _metadata(evaluation: Evaluation, facts: RunFacts) -> ModelCardData:
    from huggingface_hub import ModelCardData

    results = _results(evaluation) if evaluation.verdict == "valid" else []
    erased = evaluation.outcome is not None and evaluation.outcome.name == "erased"
    base = facts.base_model if _is_hub_name(facts.base_model) else None
    return ModelCardData(
        # One line, so that no name can end the block of metadata.
        model_name=_one_line(_named(evaluation, erased=erased)) if results else None,
        base_model=base,
        library_name=words_for(evaluation).library,
        pipeline_tag=words_for(evaluation).task,
        tags=["concept-erasure", "efface", *([facts.method] if facts.method else [])],
        eval_results=results or None,
    )


def _named(evaluation: Evaluation, *, erased: bool) -> str:
    what = wording.subject(evaluation)
    if erased:
        return f"{what} erased"
    name = evaluation.outcome.name if evaluation.outcome else "before any erasure"
    return f"{what}: {name}"


def _is_hub_name(base_model: str) -> bool:
    """Tells ``owner/name`` from a folder, which the hub would refuse as a base model."""
    return bool(_HUB_NAME.fullmatch(base_model)) and not Path(base_model).exists()


def _results(evaluation: Evaluation) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    found = []
    for row in evaluation.measurements:
        estimate = row.after or (row.change if row.before is None else row.before)
        if row.concept is not None or estimate is None:
            continue
        result = EvalResult(
            task_type=words_for(evaluation).task,
            dataset_type=f"efface-{evaluation.suite.replace('@', '-v')}",
            dataset_name=f"efface suite {evaluation.suite}, {row.role} prompts",
            dataset_config=row.role,
            metric_type=row.metric,
            metric_value=estimate.value,
            metric_name=f"{wording.named(row.metric)} ({wording.interval(estimate, row.unit)})",
        )
        found.append(result)
    return found


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
