"""All reports of one evaluation, written into one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.evaluation.record import Evaluation
from efface.reports.cards import write_json_card, write_model_card
from efface.reports.facts import run_facts
from efface.reports.figures import before_after, interval_plot, thumbnail
from efface.reports.html import write_page

if TYPE_CHECKING:
    from efface.deltas.results import ErasureResult

__all__ = ["write_report"]


def write_report(
    folder: Path, evaluation: Evaluation, run: ErasureResult | Mapping[str, Any] | None = None
) -> tuple[Path, ...]:
    """Writes the page, the cards and the figures, each in one step, and gives their paths.

    ``report.html``, ``card.json``, ``card.md``, ``before_after.png``, ``thumbnail.jpg`` where an
    erased prompt was drawn before and after, and ``intervals.png`` when rates were measured.

    Args:
        folder: made if it is not there.
        evaluation: what was found; its pictures are read from its store.
        run: the erasure's result, or the content of its ``run.json``: adds time and, under
            ``curves``, those of its training. Previews in the folder are shown as well.

    Raises:
        BadRequest: the folder cannot be written to.
    """
    facts = run_facts(evaluation, run)
    folder.mkdir(parents=True, exist_ok=True)
    written = [
        write_page(folder / "report.html", evaluation, facts),
        write_json_card(folder / "card.json", evaluation, facts),
        write_model_card(folder / "card.md", evaluation, facts),
        before_after(evaluation, folder / "before_after.png"),
    ]
    if (small := thumbnail(evaluation, folder / "thumbnail.jpg")) is not None:
        written.append(small)
    if any(one.unit == "rate" for one in evaluation.measurements):
        written.append(interval_plot(evaluation, folder / "intervals.png"))
    return tuple(written)
