"""The browser of runs: filters, two runs compared, card and report, exports, the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from markupsafe import escape

from efface import registry
from efface.concepts import names
from efface.errors import BadRequest, EffaceError
from efface.evaluation.contrast import contrast
from efface.printable import printable
from efface.studio import views
from efface.studio.desk import Desk, RunLine
from efface.studio.jobs import Told
from efface.studio.sharing import following
from efface.workbench import runs
from efface.workbench.exporting import READERS, Format, Wanted, export

__all__ = ["RunsTab", "compared", "export_place", "ledger_table", "listed"]

_HEADS = ["run", "model", "erases", "method", "outcome", "left", "kept", "seconds"]
_ENDINGS: dict[str, str] = {
    "kohya": ".safetensors",
    "spm": ".safetensors",
    "adapter": ".safetensors",
}
EXPORTS = "exports"
"""Folder of the root that exports are written to."""


def listed(lines: list[RunLine], text: str, outcome: str) -> list[list[str]]:
    """Describes the runs that hold a text in any column and have an outcome."""
    rows = []
    for one in lines:
        row = [one.name, one.model, ", ".join(one.concepts), one.method, one.outcome]
        shown = [*map(printable, row), views.percent(one.left), views.percent(one.kept)]
        shown.append(f"{one.seconds:.1f}")
        fits = text.strip().casefold() in " ".join(shown).casefold()
        if fits and outcome in ("any", one.outcome):
            rows.append(shown)
    return rows


def compared(desk: Desk, first: str, second: str) -> str:
    """Compares two measured runs, picture by picture of the same prompt and seed.

    Raises:
        BadRequest: one was not measured, or they do not pair.
    """
    one, other = desk.evaluation(first), desk.evaluation(second)
    if one is None or other is None:
        missing = first if one is None else second
        raise BadRequest(f"{missing} was not measured; measure it: efface evaluate RUN")
    rows = [
        (
            each.role,
            f"{each.first.value:.1%}",
            f"{each.second.value:.1%}",
            f"{100 * each.difference.value:+.1f} points",
            f"{100 * each.difference.low:+.1f} to {100 * each.difference.high:+.1f}",
            f"{each.p_value:.3g}",
            each.difference.count,
        )
        for each in contrast(one, other)
    ]
    heads = ("role", first, second, "difference", "95 % interval", "p (McNemar)", "pictures")
    return views.table(heads, rows)


def export_place(desk: Desk, name: str, format_: Format) -> Any:
    """Says where in the root an export goes."""
    plain = name.replace("/", "-")
    place = desk.place(f"{EXPORTS}/{plain}-{format_}{_ENDINGS.get(format_, '')}")
    place.parent.mkdir(exist_ok=True)
    return place


def ledger_table(desk: Desk, name: str) -> str:
    """Shows the entries of a ledger in the root.

    Raises:
        BadRequest, BadDelta: there is none, or it was changed by hand.
    """
    from efface.ledger import Ledger

    book = Ledger.open(desk.place(name))
    rows = []
    for entry in book.entries:
        gone = entry.revoked
        state = "active" if gone is None else f"revoked {gone.date} {gone.reason}".rstrip()
        erases = ", ".join(names(each.concept)[0] for each in entry.request.erasures)
        rows.append((entry.id, entry.date, erases, entry.weight, state))
    told = views.message(f"{len(book.active)} active of {len(book.entries)}, on {book.base_model}")
    return told + views.table(("entry", "date", "erases", "weight", "state"), rows)


def _ledgers(desk: Desk) -> list[str]:
    found = [*desk.root.glob("*/ledger.json"), *desk.root.glob("*/*/ledger.json")]
    return sorted(str(path.parent.relative_to(desk.root)) for path in found)


def _framed(page: str) -> str:
    """Shows a page of its own, which may run nothing and reach nothing."""
    return (
        f'<div class="told"><iframe sandbox title="report" srcdoc="{escape(page)}"></iframe></div>'
    )


class RunsTab:
    """The table, the run that is looked at, exports and the ledger."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        with gr.Row():
            self.text = gr.Textbox(label="Filter", placeholder="pistol", elem_id="filter")
            outcomes = ["any", "erased", "partly erased", "not erased", "others lost"]
            self.outcome = gr.Dropdown(
                [*outcomes, "unknown", "not measured"], value="any", label="Outcome"
            )
        self.table = gr.Dataframe(
            listed(desk.lines(), "", "any"), headers=_HEADS, interactive=False, elem_id="runs"
        )
        names = desk.run_names()
        self.run = gr.Dropdown(names, label="Run", elem_id="run", value=None)
        with gr.Row():
            card = gr.Button("Card", elem_id="card")
            report = gr.Button("Report", elem_id="report")
        self.shown = gr.HTML(elem_id="shown")
        self._exports()
        with gr.Accordion("Compare with another run", open=False):
            self.other = gr.Dropdown(names, label="Other run", elem_id="other", value=None)
            compare = gr.Button("Compare", elem_id="compare")
            difference = gr.HTML(elem_id="difference")
        with gr.Accordion("Ledger", open=False):
            ledgers = _ledgers(desk)
            ledger = gr.Dropdown(ledgers, label="Ledger", value=ledgers[0] if ledgers else None)
            book = gr.HTML(self.ledger(ledgers[0]) if ledgers else "", elem_id="ledger")
        for change in (self.text.change, self.outcome.change):
            change(self.filtered, [self.text, self.outcome], self.table)
        self.table.select(self.chosen, self.table, self.run)
        card.click(self.card, self.run, self.shown)
        report.click(self.report, self.run, self.shown)
        compare.click(self.compared, [self.run, self.other], difference)
        ledger.change(self.ledger, ledger, book)

    def _exports(self) -> None:
        """Builds a button for each format, which names the tool."""
        with gr.Accordion("Export for", open=False):
            status = gr.HTML(elem_id="export-status")
            reads = registry.reads_pictures(self.desk.model)
            for format_, reader in READERS.items():
                if (format_ == "transformers") == reads or format_ == "peft":
                    button = gr.Button(reader, size="sm")
                    button.click(self._exporting(format_), self.run, status, concurrency_limit=None)

    def _exporting(self, format_: Format) -> Any:
        def exported(name: str | None, request: gr.Request) -> Iterator[tuple[Any, ...]]:
            try:
                place, source = export_place(self.desk, name or "", format_), self._place(name)
            except EffaceError as error:
                yield (views.message(error, "bad"),)
                return

            def work(told: Told) -> None:
                export(Wanted(source=source, as_=format_, out=place, overwrite=True), told)

            yield from following(self.desk, f"Export {name}", work, request, lambda _: ())

        return exported

    def _place(self, name: str | None) -> Any:
        place = self.desk.place(name or "")
        runs.recipe_of(place)
        return place

    def filtered(self, text: str, outcome: str) -> list[list[str]]:
        """Reads the runs again, as far as they fit."""
        return listed(self.desk.lines(), text or "", outcome)

    def chosen(self, rows: Any, event: gr.SelectData) -> Any:
        """Takes the run whose row was chosen."""
        names = {printable(name): name for name in self.desk.run_names()}
        return names.get(str(rows.iloc[event.index[0], 0]))

    def card(self, name: str | None) -> str:
        """Shows what the run's card says; without one, what the run's record says."""
        try:
            place = self._place(name)
            file = place / "card.md"
            if file.is_file() and not file.is_symlink():
                text = views.text_of(file.read_text("utf-8")).replace("\\n", "\n")
                return f'<div class="told"><pre>{text}</pre></div>'
            recipe = runs.recipe_of(place)
            told = {"method": recipe.method, "model": recipe.model, "repeat": recipe.command()}
            return views.message("not measured, so there is no card", "open") + views.facts(told)
        except (EffaceError, OSError) as error:
            return views.message(error, "bad")

    def report(self, name: str | None) -> str:
        """Shows the run's page in a frame that may run nothing."""
        try:
            file = self._place(name) / "report.html"
            if not file.is_file() or file.is_symlink():
                return views.message("not measured, so there is no report", "open")
            return _framed(file.read_text("utf-8"))
        except (EffaceError, OSError) as error:
            return views.message(error, "bad")

    def compared(self, first: str | None, second: str | None) -> str:
        """Compares, or says why not."""
        try:
            return compared(self.desk, first or "", second or "")
        except EffaceError as error:
            return views.message(error, "bad")

    def ledger(self, name: str | None) -> str:
        """Shows a ledger, or says what is wrong with it."""
        try:
            return ledger_table(self.desk, name or "")
        except EffaceError as error:
            return views.message(error, "bad")
