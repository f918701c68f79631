"""The tab of strength: a slider that scales a delta, and a search for as little as is enough."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from efface.concepts import wordings
from efface.errors import EffaceError
from efface.evaluation.strength import Goal, Search, strength_for
from efface.studio import views
from efface.studio.desk import Desk
from efface.studio.jobs import Job, Told
from efface.studio.sharing import following, leaving, run_choice
from efface.workbench import measuring, runs
from efface.workbench.erasing import write_scaled

__all__ = ["StrengthTab", "scaled_pair", "search"]

_NO_RUN = "There is no run yet: erase something first."


def scaled_pair(
    desk: Desk, name: str, scale: float, prompt: str, seed: int, told: Told
) -> tuple[Any, Any]:
    """Draws a prompt without a run's delta and with so much of it."""
    deltas, pipe = desk.deltas([name]), desk.host(told)
    text = prompt or wordings(runs.recipe_of(desk.place(name)).request.erasures[0].concept)[0]
    before = desk.picture(pipe, text, seed, told)
    with desk.applied(pipe, deltas, scale):
        after = desk.picture(pipe, text, seed, told)
    return views.enlarged(before), views.enlarged(after)


def search(desk: Desk, name: str, goal: Goal, told: Told) -> Search:
    """Looks for the least strength of a run that reaches a goal."""
    recipe = runs.recipe_of(desk.place(name))
    *beneath, delta = desk.deltas([name])
    suite = measuring.suite_of(measuring.Plan(size="short"), recipe)
    judge = measuring.judge_for(suite.judge, None)
    pipe = desk.host(told)
    with desk.applied(pipe, beneath), told.progress("finding the strength") as monitor:
        return strength_for(pipe, delta, suite, judge, goal, seed=recipe.seed, monitor=monitor)


def _tries(found: Search | None) -> str:
    if found is None:
        return ""
    words = {"below": "enough", "above": "too weak", None: "not decided"}
    rows = [
        (
            f"{one.strength:g}",
            f"{one.hits} of {one.count}",
            f"{one.low:.1%} to {one.high:.1%}",
            words[one.side],
        )
        for one in found.tries
    ]
    chosen = found.strength
    told = (
        views.message(f"Strength {chosen:g} is the least that was enough.", "good")
        if chosen is not None
        else views.message("No strength was enough; choose a stronger method or preset.", "bad")
    )
    return told + views.table(("strength", "left", "interval", ""), rows)


class StrengthTab:
    """The slider, the search, and what their buttons do."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        with gr.Row():
            with gr.Column(min_width=320):
                self._ask()
            with gr.Column(min_width=320):
                self.status = gr.HTML()
                with gr.Column(elem_classes=["pictures"]):
                    self.slider = gr.ImageSlider(
                        label="Before and at this strength, same seed",
                        interactive=False,
                        max_height=390,
                        elem_id="strength-slider",
                    )
                self.tries = gr.HTML()
        inputs, shown = [self.run, self.scale, self.prompt, self.seed], [self.status, self.slider]
        for change in (self.scale.release, self.prompt.submit, self.draw.click):
            change(self.drawn, inputs, shown, concurrency_limit=None)
        found = [self.status, self.tries, self.scale]
        goal = [self.run, self.left, self.budget]
        self.find.click(self.found, goal, found, concurrency_limit=None)
        kept = [self.run, self.scale, self.new]
        self.done = self.save.click(self.kept, kept, self.status, concurrency_limit=None)
        self.stop.click(leaving(desk), None, None, queue=False)

    def _ask(self) -> None:
        """Builds the form."""
        self.run = run_choice(self.desk, "Run", elem_id="strength-run")
        self.scale = gr.Slider(0, 2, 1, step=0.05, label="Strength", elem_id="strength")
        self.prompt = gr.Textbox(label="Prompt (empty: the erased concept's)")
        self.seed = gr.Number(0, label="Seed", precision=0)
        self.draw = gr.Button("Draw", elem_id="strength-draw")
        with gr.Accordion("Find the strength", open=True):
            self.left = gr.Slider(1, 50, 5, step=1, label="At most so many per cent left")
            self.budget = gr.Slider(1, 6, 3, step=1, label="Strengths to try")
            with gr.Row():
                self.find = gr.Button("Find", variant="primary", elem_id="find")
                self.stop = gr.Button("Cancel")
            self.new = gr.Textbox(label="Save this strength as run")
            self.save = gr.Button("Save")

    def drawn(
        self, name: str | None, share: float, text: str, number: float, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Draws at the slider's strength; an earlier one of this page is given up."""
        if not name:
            yield views.message(_NO_RUN), gr.skip()
            return
        self.desk.queue.leave(request.session_hash or "")

        def work(told: Told) -> Any:
            return scaled_pair(self.desk, name, share, text or "", int(number or 0), told)

        def render(job: Job) -> tuple[Any]:
            return (job.result or gr.skip(),)

        yield from following(self.desk, f"Strength {share:g}", work, request, render)

    def found(
        self, name: str | None, share: float, most: float, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Searches, and moves the slider to what was found."""
        if not name:
            yield views.message(_NO_RUN), gr.skip(), gr.skip()
            return
        goal = replace(Goal(), left=share / 100, budget=int(most))

        def work(told: Told) -> Search:
            return search(self.desk, name, goal, told)

        def render(job: Job) -> tuple[Any, Any]:
            best = job.result.strength if job.result else None
            return _tries(job.result), gr.skip() if best is None else best

        yield from following(self.desk, f"Strength of {name}", work, request, render)

    def kept(
        self, name: str | None, share: float, named: str, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Saves the slider's strength as a run."""
        try:
            place, source = self.desk.place((named or "").strip()), self.desk.place(name or "")
        except EffaceError as error:
            yield (views.message(error, "bad"),)
            return

        def work(told: Told) -> None:
            write_scaled(source, place, share, self.desk.host(told), told)

        yield from following(self.desk, f"Save {named}", work, request, lambda _: ())
