"""The tab of models that read pictures: classes are forgotten, and held-out pictures tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from PIL import Image

from efface import registry
from efface.contracts import Role
from efface.errors import EffaceError
from efface.evaluation.samples import in_role
from efface.runs.recipe import EraseRecipe, usual_preset
from efface.runs.words import Words, understood
from efface.runs.workspace import Workspace
from efface.studio import views
from efface.studio.desk import Desk
from efface.studio.erase import method_choices
from efface.studio.jobs import Job, Told
from efface.studio.sharing import following, leaving
from efface.workbench import making, measuring, previews
from efface.workbench.erasing import Keeping, fill

__all__ = ["RecognisersTab", "captioned", "forget_work", "request_of"]

_PICTURES = 6


def request_of(desk: Desk, model: str, classes: list[str], method: str, retain: str) -> EraseRecipe:
    """Writes down which classes are forgotten; picture folders are those of the root.

    Raises:
        BadRequest, MissingInput: no class, or a folder that is not in the root.
    """
    data = str(desk.place(retain)) if retain else None
    words = Words(concepts=tuple(classes), retain_data=data)
    return EraseRecipe(
        model=model,
        request=understood(words.request(), model),
        method=method,
        preset=usual_preset(model, method),
    )


def forget_work(desk: Desk, recipe: EraseRecipe, name: str, test: str, told: Told) -> None:
    """Forgets classes as a run of the root, and measures it on held-out pictures."""
    from efface.runs.erasing import check
    from efface.runs.given import pictured

    out, made = desk.place(name), pictured(recipe)
    workspace = Workspace(checkpoint=previews.checkpoint_of(out))
    check(made, workspace)
    host = desk.host(told, recipe.model)
    held_out = str(desk.place(test)) if test else None
    again = "forget again under the same name"
    with making.open_new_run(out, made, overwrite=False) as folder:
        fill(
            folder,
            made,
            host,
            Keeping(pictures=False),
            workspace,
            told,
            again=again,
            onward="efface erase ... --resume",
        )
        if (why := measuring.unmeasurable(made, measuring.Plan(test_data=held_out))) is None:
            said = list(told.job.lines)
            measuring.measure(folder, host, measuring.Plan(test_data=held_out), told)
            told.job.lines[:] = said  # the page shows the numbers themselves
        else:
            told.say(why)


def captioned(desk: Desk, name: str) -> list[tuple[Image.Image, str]]:
    """Reads pictures with what they were called before and after."""
    found = desk.evaluation(name)
    shown: list[tuple[Image.Image, str]] = []
    if found is None:
        return shown
    roles: tuple[Role, ...] = ("erased", "kept")
    for role in roles:
        count = 0
        for sample in in_role(found.samples, role):
            pair = [found.picture(sample, edited=edited) for edited in (False, True)]
            pictures = [views.read_picture(path) for path in pair]
            if count == _PICTURES or None in pictures:
                continue
            count += 1
            for when, picture in zip(("before", "after"), pictures, strict=True):
                if picture is not None:
                    shown.append((picture, f"{role}, {when}"))
    return shown


def _usual(methods: list[tuple[str, str]]) -> str | None:
    """Names the method that is chosen at first: GS-LoRA where it edits the kind of model."""
    names = [name for _, name in methods]
    return "gs_lora" if "gs_lora" in names else next(iter(names), None)


class RecognisersTab:
    """The form, and what became of the classes."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        models = [*registry.VISION]
        self.usual = models[0] if desk.draws else desk.model
        choices = models if self.usual in models else [self.usual, *models]
        methods = method_choices(self.usual)
        with gr.Row():
            with gr.Column(min_width=320):
                self.model = gr.Dropdown(
                    choices, value=self.usual, label="Model", elem_id="forget-model"
                )
                self.classes = gr.Dropdown(
                    desk.classes(self.usual),
                    label="Classes to forget",
                    multiselect=True,
                    allow_custom_value=True,
                    elem_id="classes",
                )
                self.method = gr.Dropdown(
                    methods, value=_usual(methods), label="Method", elem_id="forget-method"
                )
                self.name = gr.Textbox(label="Name of the run", elem_id="forget-name")
                self.retain = gr.Textbox(label="Folder with a folder of pictures for each class")
                self.test = gr.Textbox(label="The same, held out")
                gr.HTML(
                    views.message("Folders are inside the studio's; bundled models have their own.")
                )
                with gr.Row():
                    start = gr.Button("Forget", variant="primary", elem_id="forget")
                    stop = gr.Button("Cancel")
            with gr.Column(min_width=320):
                status = gr.HTML(elem_id="forget-status")
                numbers = gr.HTML(elem_id="forget-numbers")
                pictures = gr.Gallery(
                    label="Called before and after",
                    columns=4,
                    buttons=views.BUTTONS,
                    elem_classes=["pictures"],
                )
        inputs = {self.model, self.classes, self.method, self.name, self.retain, self.test}
        self.done = start.click(
            self.forget, inputs, [status, numbers, pictures], concurrency_limit=None
        )
        stop.click(leaving(desk), None, None, queue=False)
        self.model.change(self.with_model, self.model, [self.classes, self.method])

    def with_model(self, model: str) -> tuple[Any, Any]:
        """Offers the classes of a model, and the methods that edit its kind."""
        methods = method_choices(model)
        classes = gr.update(choices=self.desk.classes(model), value=[])
        return classes, gr.update(choices=methods, value=_usual(methods))

    def forget(self, given: dict[Any, Any], request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Forgets what the form says."""
        classes = given[self.classes] or []
        run = (given[self.name] or "").strip() or "-".join(["forget", *classes[:3]])
        try:
            self.desk.place(run)
            recipe = request_of(
                self.desk,
                given[self.model],
                classes,
                given[self.method],
                (given[self.retain] or "").strip(),
            )
        except EffaceError as error:
            yield views.message(error, "bad"), gr.skip(), gr.skip()
            return
        test, ended = (given[self.test] or "").strip(), list[Job]()

        def work(told: Told) -> None:
            forget_work(self.desk, recipe, run, test, told)

        def render(job: Job) -> tuple[Any, Any]:
            ended[:] = [job]
            return gr.skip(), gr.skip()

        yield from following(self.desk, f"Forget {', '.join(classes)}", work, request, render)
        if ended and ended[0].state == "done" and (found := self.desk.evaluation(run)):
            yield gr.skip(), views.evaluation_table(found), captioned(self.desk, run)
