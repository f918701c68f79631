"""The tab of collateral damage: what each erasure did to every concept that was measured."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from efface.errors import EffaceError
from efface.evaluation.collateral import CollateralMap, collateral, samples_of
from efface.studio import views
from efface.studio.desk import Desk

__all__ = ["CollateralTab", "pictures_behind"]

_PICTURES = 12


def pictures_behind(desk: Desk, name: str, concept: str) -> list[tuple[Image.Image, str]]:
    """Reads the pictures of one concept before and after one erasure, in turn."""
    found = desk.evaluation(name)
    shown = []
    for sample in () if found is None else samples_of(found, concept)[:_PICTURES]:
        for edited in (False, True):
            picture = views.read_picture(found.picture(sample, edited=edited)) if found else None
            if picture is not None:
                when = "after" if edited else "before"
                shown.append((picture, f"{when}: {sample.prompt}, seed {sample.seed}"))
    return shown


class CollateralTab:
    """The map, and the pictures behind a cell."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        gr.HTML(
            views.message(
                "Points by which each concept is seen less often after an erasure (of so many "
                "pictures): blue was to go, red was to stay. Choose a number to see "
                "the pictures behind it."
            )
        )
        self.renew = gr.Button("Read again", size="sm", elem_id="collateral-renew")
        self.told = gr.HTML()
        self.map = gr.Dataframe(
            interactive=False, pinned_columns=1, elem_id="collateral-map", label="Lost, in points"
        )
        self.pictures = gr.Gallery(
            label="Pictures",
            columns=4,
            buttons=views.BUTTONS,
            elem_id="collateral-pictures",
            elem_classes=["pictures"],
        )
        self.renew.click(self.read, None, [self.map, self.told])
        self.map.select(self.behind, None, [self.pictures, self.told])

    def _found(self) -> CollateralMap:
        evaluations = {}
        for line in self.desk.lines():
            if line.model == self.desk.model and line.outcome != "not measured":
                evaluation = self.desk.evaluation(line.name)
                if evaluation is not None and evaluation.answers:
                    evaluations[line.name] = evaluation
        return collateral(evaluations)

    def read(self) -> tuple[Any, str]:
        """Reads the map of all measured runs."""
        try:
            found = self._found()
        except EffaceError as error:
            return gr.skip(), views.message(error, "bad")
        if not found.rows:
            return gr.skip(), views.message("No run is measured yet: erase with a measurement.")
        return views.heat_map(found), ""

    def behind(self, event: gr.SelectData) -> tuple[Any, str]:
        """Shows the pictures of the cell that was chosen."""
        row, column = event.index
        try:
            found = self._found()
            name, concept = found.rows[row], ("", *found.columns)[column]
            shown = pictures_behind(self.desk, name, concept) if concept else []
        except (EffaceError, IndexError) as error:
            return gr.skip(), views.message(error, "bad")
        cell = found.cells.get((name, concept))
        told = "no picture was kept of that"
        if cell is not None:
            told = (
                f"{concept} with {name}: seen in {views.percent(cell.before.value)} before and "
                f"{views.percent(cell.after.value)} after, of {cell.after.count} pictures"
            )
        return shown, views.message(told)
