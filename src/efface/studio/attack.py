"""The console of attacks: access, budget, the survival curve as it runs, pictures found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from efface import registry
from efface.evaluation.revival import FOLDER, survival
from efface.reports.robustness import attack_lines, hardest, steps_path
from efface.reports.wording import ACCESS
from efface.studio import views
from efface.studio.desk import Desk
from efface.studio.jobs import Job, Told
from efface.studio.sharing import following, leaving, run_choice
from efface.workbench import runs
from efface.workbench.attacking import Aim, assaults, attacked_with, renew_reports
from efface.workbench.folder import locked

if TYPE_CHECKING:
    from efface.evaluation.revival import AttackRecord, Trial

__all__ = ["AttackTab", "attack_work", "attacks_with"]

_ALL = "any"


def attacks_with(access: str) -> list[str]:
    """Lists the attacks that need no more than a kind of access, as reports call it."""
    entries = registry.entries("attacks")
    found = {entry.name: ACCESS[registry.load("attacks", entry.name).access] for entry in entries}
    return [name for name, needs in found.items() if access in (_ALL, needs)]


def attack_work(
    desk: Desk, name: str, attacks: Sequence[str], aim: Aim, told: Told
) -> list[AttackRecord]:
    """Attacks a run, and shows the curve as it goes."""

    def seen(trials: Sequence[Trial]) -> None:
        told.job.result = tuple(trials)
        told.job.check()

    records: list[AttackRecord] = []
    with locked(desk.place(name)) as folder:
        recipe, pipe = runs.recipe_of(aim.source), desk.host(told)
        *beneath, _ = desk.deltas([name])
        with desk.applied(pipe, beneath):
            for assault in assaults(pipe, aim, recipe, attacks[0]):
                records += attacked_with(folder, assault, attacks, told, seen=seen)
        renew_reports(folder, told)
    return records


def _curve(result: Any, budget: int) -> str:
    """Shows how many trials are still erased after so many network evaluations."""
    if result is None:
        return ""
    if isinstance(result, tuple):
        path = steps_path(survival(result), budget)
        left = sum(one.revived is None and not one.plain for one in result)
        told = f"{left} of {len(result)} trials"
        return f'<div class="told">{views.curve("still erased", path, told)}</div>'
    lines = attack_lines(result)
    rows = [
        (
            one.attack,
            one.access,
            one.before,
            one.told or f"{one.revived} ({one.interval})",
            one.cost,
        )
        for one in lines
    ]
    drawn = "".join(views.curve(one.attack, one.path, one.revived or one.told) for one in lines)
    heads = ("attack", "needs", "plain", "brought back", "half after")
    told = views.message(hardest(result))
    return (
        told
        + f'<div class="told"><div class="curves">{drawn}</div></div>'
        + views.table(heads, rows)
    )


class AttackTab:
    """The console."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        kinds = [_ALL, *dict.fromkeys(ACCESS.values())]
        with gr.Row():
            with gr.Column(min_width=320):
                self.run = run_choice(desk, "Run", elem_id="attack-run")
                access = gr.Dropdown(kinds, value="text only", label="Access of the attacker")
                self.attacks = gr.Dropdown(
                    attacks_with("text only"),
                    value=["paraphrase"],
                    multiselect=True,
                    label="Attacks",
                    elem_id="attacks",
                )
                budget = gr.Number(400, label="Network evaluations a trial", precision=0)
                trials = gr.Slider(1, 16, 4, step=1, label="Trials")
                with gr.Row():
                    start = gr.Button("Attack", variant="primary", elem_id="attack")
                    stop = gr.Button("Cancel")
            with gr.Column(min_width=320):
                status = gr.HTML(elem_id="attack-status")
                curve = gr.HTML(elem_id="attack-curve")
                pictures = gr.Gallery(
                    label="The pictures most like it, a row an attack",
                    columns=1,
                    buttons=views.BUTTONS,
                    elem_classes=["pictures", "sheets"],
                    object_fit="contain",
                )
        access.change(self.with_access, access, self.attacks)
        inputs, shown = [self.run, self.attacks, budget, trials], [status, curve, pictures]
        start.click(self.attack, inputs, shown, concurrency_limit=None)
        stop.click(leaving(desk), None, None, queue=False)

    def with_access(self, access: str) -> Any:
        """Offers the attacks of an access level."""
        return gr.update(choices=attacks_with(access), value=[])

    def attack(
        self,
        name: str | None,
        attacks: list[str],
        budget: float,
        trials: float,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Attacks, and shows the curve and what was found."""
        if not name or not attacks:
            yield views.message("Choose a run and an attack."), gr.skip(), gr.skip()
            return
        aim = Aim(source=self.desk.place(name), budget=int(budget or 0), trials=int(trials))

        def work(told: Told) -> Any:
            return attack_work(self.desk, name, attacks, aim, told)

        def render(job: Job) -> tuple[Any, Any]:
            return _curve(job.result, aim.budget), gr.skip()

        yield from following(self.desk, f"Attack {name}", work, request, render)
        yield gr.skip(), gr.skip(), self.found(name, attacks)

    def found(self, name: str, attacks: Sequence[str]) -> list[tuple[Image.Image, str]]:
        """Reads the sheets of the best pictures of each trial."""
        sheets = []
        for attack in attacks:
            for path in sorted((self.desk.place(name) / FOLDER).glob(f"{attack}-*.png")):
                with Image.open(path) as sheet:
                    sheets.append((sheet.convert("RGB"), path.stem))
        return sheets
