"""One self-contained page: no script, no network, pictures inside."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface.contracts import Role, Sample
from efface.evaluation.record import Evaluation
from efface.evaluation.samples import ROLES
from efface.files import write_atomically
from efface.metrics.estimates import corrected_rate, is_known
from efface.reports import wording
from efface.reports.charts import blocks, curves
from efface.reports.collateral import collateral
from efface.reports.facts import RunFacts
from efface.reports.gallery import embedded, gallery
from efface.reports.limits import limits
from efface.reports.model_words import words_for
from efface.reports.pages import rendered
from efface.reports.previews import previews
from efface.reports.repeating import repeating
from efface.reports.robustness import attack_lines, hardest, tested
from efface.reports.whereabouts import whereabouts

__all__ = ["write_page"]

_SIDE = 160
"""Largest side of a picture from training; larger ones are scaled down."""


@dataclass(frozen=True)
class _Shot:
    """A picture from training, as a data URI, and when it was drawn."""

    caption: str
    picture: str


@dataclass(frozen=True)
class _Tile:
    """One large number at the top."""

    label: str
    before: str
    after: str
    note: str
    asks: str
    """Whose share it is."""
    better: str
    state: str
    """"good", "bad" or nothing: within the limits or not."""


def write_page(path: Path, evaluation: Evaluation, facts: RunFacts) -> Path:
    """Writes the page in one step; previews that lie beside it are shown on it.

    Raises:
        BadRequest: the place cannot be written to.
    """
    shots = [
        _Shot(shot.caption(facts.method), embedded(shot.path, _SIDE))
        for shot in previews(path.parent)
    ]
    page = rendered("report.html", {**_context(evaluation, facts), "previews": shots})
    write_atomically(path, page.encode())
    return path


def _context(evaluation: Evaluation, facts: RunFacts) -> dict[str, Any]:
    card = evaluation.judge
    return {
        "evaluation": evaluation,
        "facts": facts,
        "subject": wording.subject(evaluation),
        "headline": wording.headline(evaluation),
        "judged": evaluation.verdict != "not measured",
        "words": words_for(evaluation),
        "verdict_meaning": wording.VERDICTS[evaluation.verdict],
        "outcome": evaluation.outcome,
        "outcome_tone": wording.tone(evaluation.outcome),
        "outcome_meaning": wording.meaning(evaluation),
        "reasons": _reasons(evaluation),
        "tiles": _tiles(evaluation),
        "pictures": gallery(evaluation),
        "beside": collateral(evaluation),
        "scope": tuple(_scope(evaluation, facts)),
        "blocks": blocks(evaluation),
        "whereabouts": whereabouts(evaluation),
        "curves": curves(facts.curves),
        "controls": [
            (control, wording.interval(control.estimate, "rate")) for control in evaluation.controls
        ],
        "judge_rates": {
            "Sees what is there": _known(card.true_positive_rate),
            "Sees what is not there": _known(card.false_positive_rate),
        },
        "corrected": _corrected(evaluation),
        "instruments": {
            label: evaluation.instruments[use]
            for use, label in (
                ("leftover", "Leftovers"),
                ("clip", "CLIP"),
                ("features", "Features"),
            )
            if use in evaluation.instruments
        },
        "repeating": repeating(evaluation, facts.command),
        "limits": limits(evaluation, tested(facts.attacks)),
        "attacks": attack_lines(facts.attacks),
        "hardest": hardest(facts.attacks),
        "answer_heads": tuple(evaluation.answers),
        "answered": _answered(evaluation),
        "erased": [dict(one) for one in facts.erased],
    }


def _tiles(evaluation: Evaluation) -> list[_Tile]:
    """Picks the overall presence rates; roles without one have no tile."""
    tiles = []
    words, main = words_for(evaluation), evaluation.main_metric
    for metric in (main, "style_presence"):
        for role in ROLES:
            found = evaluation.find(metric, role)
            if found is None or (metric == "style_presence" and role != "kept"):
                continue
            latest = found.after or found.before
            label = wording.ROLES[role] if metric == main else "Styles kept"
            before = wording.value(found.before, "rate") if found.after else ""
            now = wording.value(latest, "rate")
            inside = wording.within(found, evaluation.limits)
            state = "" if inside is None else ("good" if inside else "bad")
            own = words.asks.get(role, _ASKS[role])
            asks = own if metric == main else "the style that the prompt asks for"
            note = wording.interval(latest, "rate")
            tiles.append(_Tile(label, before, now, note, asks, found.better, state))
    return tiles


_ASKS: dict[Role, str] = {
    "erased": "what was to go",
    "synonym": "what was to go",
    "paraphrase": "what was to go",
    "earlier": "what earlier requests erased",
    "neighbour": "the neighbour that the prompt names",
    "kept": "the kept thing that the prompt names",
    "missing": "what the picture shows",
    "composition": "all that the prompt names, as often, and where it says",
    "general": "what the prompt names; counts together with kept",
}
"""What a role's prompts ask for, and so what its share of pictures shows."""


def _scope(evaluation: Evaluation, facts: RunFacts) -> Iterator[tuple[str, str]]:
    """Says for the first screen what was done and looked at, and where that ends."""
    words, what = words_for(evaluation), wording.subject(evaluation)
    if evaluation.after is None:
        yield "Scope", f"{words.model}, as it is; nothing was erased"
    else:
        kept = ", ".join(facts.kept[:6]) + (" and others" if len(facts.kept) > 6 else "")
        asked = f"to go from {words.model}: {what}"
        yield "Scope", asked + (f"; to stay: {kept}" if kept else "")
    yield "Looked at", _looked_at(evaluation)
    yield "Bringing it back", hardest(facts.attacks) or "Nobody tried to bring it back."
    for n, limit in enumerate(limits(evaluation, tested(facts.attacks))[:2]):
        yield ("" if n else "Limits"), limit


def _looked_at(evaluation: Evaluation) -> str:
    words, count = words_for(evaluation), len(evaluation.samples)
    if evaluation.model_kind != "generator":
        return f"{count} {words.held_out}, the same ones before and after"
    prompts = len({sample.prompt for sample in evaluation.samples})
    return f"{count} pictures of {prompts} prompts, with the same seeds before and after"


def _answered(evaluation: Evaluation) -> list[tuple[Sample, tuple[str, ...]]]:
    """Lists every sample with what the instruments answered about its pictures."""
    columns = [*evaluation.answers.values()]
    return [
        (sample, tuple("" if math.isnan(each[n]) else f"{each[n]:.3g}" for each in columns))
        for n, sample in enumerate(evaluation.samples)
    ]


def _reasons(evaluation: Evaluation) -> tuple[str, ...]:
    outcome = evaluation.outcome
    known = " ".join(evaluation.reasons)
    more = () if outcome is None else outcome.reasons
    return (*evaluation.reasons, *(one for one in more if one not in known))


def _known(rate: Any) -> str:
    if not is_known(rate):
        return "unknown: nobody has measured it"
    return f"{wording.number(rate.value, 'rate')} ({wording.interval(rate, 'rate')})"


def _corrected(evaluation: Evaluation) -> str:
    """Says what the erased rate is once the judge's known errors are taken out."""
    found = evaluation.find(evaluation.main_metric, "erased")
    if found is None or found.after is None:
        return ""
    rate = corrected_rate(
        found.after,
        true_positive_rate=evaluation.judge.true_positive_rate,
        false_positive_rate=evaluation.judge.false_positive_rate,
    )
    return "" if rate is None else wording.number(rate, "rate")
