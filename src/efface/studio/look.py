"""The tab that looks: a prompt on the unedited and edited model, with deltas and guides at will."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from efface import registry
from efface.contracts import Guide
from efface.errors import BadRequest
from efface.studio import views
from efface.studio.desk import Desk
from efface.studio.jobs import Job, Told
from efface.studio.sharing import following
from efface.workbench import drawing

__all__ = ["LookTab", "attention", "guides_of", "pictures"]

_SETTING = {
    "negative": "text",
    "nag": "text",
    "sld": "concepts",
    "safree": "concepts",
    "sega": "remove",
}
"""Guides on offer, and the setting that takes what they lead away from."""


def guides_of(names: Sequence[str], away: str) -> list[Guide]:
    """Builds guides that lead away from what was typed, concepts apart by commas.

    Raises:
        BadRequest: nothing was typed.
    """
    if names and not away.strip():
        raise BadRequest("guides lead away from something: type it, such as pistol")
    parts = tuple(each.strip() for each in away.split(",") if each.strip())
    made = []
    for name in names:
        value: Any = away.strip() if _SETTING[name] == "text" else parts
        made.append(registry.build("guides", name, **{_SETTING[name]: value}))
    return made


def pictures(
    desk: Desk, prompt: str, seed: int, names: Sequence[str], guides: Sequence[Guide], told: Told
) -> tuple[Image.Image, Image.Image]:
    """Draws a prompt plainly, and with deltas and guides."""
    pipe, sampling = desk.host(told), drawing.sampling_for(desk.model)
    plain = desk.picture(pipe, prompt, seed, told)
    with desk.applied(pipe, desk.deltas(names)):
        if guides:
            shots = [drawing.Shot(prompt, seed)]
            (part,) = drawing.draw_guided(pipe, shots, sampling, told, guides=guides)
            told.say(*part.unmoved())
            edited = part.images[0]
        else:
            edited = desk.picture(pipe, prompt, seed, told)
    return views.enlarged(plain), views.enlarged(edited)


def attention(
    desk: Desk,
    prompt: str,
    seed: int,
    words: tuple[str, ...],
    names: Sequence[str],
    guides: Sequence[Guide],
    told: Told,
) -> Image.Image:
    """Draws where words attend, plainly and with deltas and guides.

    Raises:
        BadRequest: the model's attention cannot be read, or the prompt lacks a word.
    """
    from efface.guiding.watching import watched
    from efface.reports.attention import attention_figure

    pipe, sampling = desk.host(told), drawing.sampling_for(desk.model)
    how: dict[str, Any] = {"words": words, "seed": seed, "steps": sampling.steps}
    how["guidance"] = sampling.guidance
    with told.progress("reading attention"):
        rows = {"unedited": watched(pipe, (), prompt, **how)}
        told.job.check()
        with desk.applied(pipe, desk.deltas(names)):
            rows["edited"] = watched(pipe, guides, prompt, **how)
    with tempfile.TemporaryDirectory() as folder:
        path = attention_figure(rows, Path(folder) / "maps.png", title=prompt)
        with Image.open(path) as found:
            return found.convert("RGB")


class LookTab:
    """The prompt, deltas and guides, and the pictures."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        with gr.Row():
            with gr.Column(min_width=320):
                prompt = gr.Textbox("a picture of a cat", label="Prompt", elem_id="look-prompt")
                seed = gr.Number(0, label="Seed", precision=0)
                self.runs = gr.CheckboxGroup(desk.drawn_runs(), label="Deltas", elem_id="look-runs")
                guides = gr.CheckboxGroup([*_SETTING], label="Guides")
                away = gr.Textbox(label="Guides lead away from", placeholder="pistol, sword")
                words = gr.Textbox(label="Attention of words", placeholder="cat")
                with gr.Row():
                    draw = gr.Button("Draw", variant="primary", elem_id="look")
                    maps = gr.Button("Attention maps", elem_id="maps")
            with gr.Column(min_width=320, elem_classes=["pictures"]):
                status = gr.HTML()
                with gr.Row():
                    shown: dict[str, Any] = {"interactive": False, "buttons": views.BUTTONS}
                    plain = gr.Image(label="Unedited", min_width=140, **shown)
                    edited = gr.Image(label="Edited", min_width=140, elem_id="look-edited", **shown)
                figure = gr.Image(show_label=False, elem_id="look-maps", **shown)
        inputs = [prompt, seed, self.runs, guides, away]
        draw.click(self.drawn, inputs, [status, plain, edited], concurrency_limit=None)
        maps.click(self.read, [*inputs, words], [status, figure], concurrency_limit=None)

    def drawn(
        self,
        text: str,
        number: float,
        names: list[str],
        steered: list[str],
        away: str,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Draws side by side."""

        def work(told: Told) -> Any:
            made = guides_of(steered, away or "")
            return pictures(self.desk, text, int(number or 0), names, made, told)

        def render(job: Job) -> tuple[Any, ...]:
            return job.result or (gr.skip(), gr.skip())

        yield from following(self.desk, "Draw", work, request, render)

    def read(
        self,
        text: str,
        number: float,
        names: list[str],
        steered: list[str],
        away: str,
        said: str,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Reads attention side by side."""
        parts = tuple(each.strip() for each in (said or "").split(",") if each.strip())

        def work(told: Told) -> Any:
            if not parts:
                raise BadRequest("name words of the prompt, such as cat")
            made = guides_of(steered, away or "")
            return attention(self.desk, text, int(number or 0), parts, names, made, told)

        def render(job: Job) -> tuple[Any]:
            return (gr.skip() if job.result is None else job.result,)

        yield from following(self.desk, "Attention", work, request, render)
