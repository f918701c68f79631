"""The tab that erases: what goes, how, what stays; before and after; measured at the end."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from efface import registry
from efface.concepts import wordings
from efface.errors import BadRequest, EffaceError
from efface.runs.given import pictured
from efface.runs.recipe import EraseRecipe, usual_preset
from efface.runs.words import Words, understood
from efface.runs.workspace import Workspace
from efface.studio import views
from efface.studio.desk import Desk
from efface.studio.jobs import Told
from efface.studio.sharing import leaving
from efface.workbench import making, measuring, previews
from efface.workbench.erasing import Keeping, fill
from efface.workbench.models import methods_for

__all__ = ["EraseTab", "erase_work", "method_choices", "recipe_of"]

_USUAL = "usual"


def method_choices(model: str) -> list[tuple[str, str]]:
    """Lists methods that edit a kind of model, with what they cost and keep where measured."""
    reads = registry.reads_pictures(model)
    text = files("efface.studio").joinpath("costs.json").read_text("utf-8")
    known = {} if reads else json.loads(text)["methods"]
    found = []
    for name in methods_for(model):
        cost = known.get(name)
        told = (
            f": {cost['seconds']:.1f} s, {cost['left']:.0%} left, {cost['kept']:.0%} kept"
            if cost
            else ""
        )
        found.append((cost is None, cost["seconds"] if cost else 0.0, f"{name}{told}"))
    return [(label, label.split(":")[0]) for _, _, label in sorted(found)]


def recipe_of(
    desk: Desk,
    concepts: Sequence[str],
    method: str,
    *,
    keep: Sequence[str] = (),
    anchor: str = "",
    preset: str = _USUAL,
    settings: str = "",
    seed: int = 0,
) -> EraseRecipe:
    """Writes down what was chosen.

    Raises:
        BadRequest: nothing to erase, or settings that are not TOML or not the method's.
    """
    words = Words(concepts=tuple(concepts), anchor=anchor or None, keep=tuple(keep))
    try:
        given = tomllib.loads(settings)
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"the settings are not TOML ({error}); write name = value lines") from None
    listed = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    chosen = usual_preset(desk.model, method) if preset == _USUAL else preset or None
    recipe = EraseRecipe(
        model=desk.model,
        request=understood(words.request(), desk.model),
        seed=int(seed),
        method=method,
        preset=chosen,
        settings=listed,
    )
    made = pictured(recipe)
    assert isinstance(made, EraseRecipe)
    return made


def erase_work(
    desk: Desk, recipe: EraseRecipe, name: str, told: Told, *, resume: bool, size: str
) -> None:
    """Erases into a run of the root, shows a pair of pictures, and measures.

    Raises:
        BadRequest: the name is taken, or the request makes no sense.
    """
    from efface.runs.erasing import check

    out = desk.place(name)
    workspace = Workspace(checkpoint=previews.checkpoint_of(out), resume=resume)
    check(recipe, workspace)
    pipe = desk.host(told)
    keeping = Keeping(pictures=False, resume=resume)
    with making.open_new_run(out, recipe, overwrite=False) as folder:
        again = "erase again under the same name"
        result = fill(
            folder, recipe, pipe, keeping, workspace, told, again=again, onward=f"{again}, resumed"
        )
        if desk.draws:
            prompt = wordings(recipe.request.erasures[0].concept)[0]
            before = desk.picture(pipe, prompt, recipe.seed, told)
            with result.delta.apply(pipe):
                after = desk.picture(pipe, prompt, recipe.seed, told)
            told.job.result = (views.enlarged(before), views.enlarged(after))
        plan = measuring.Plan(size=size)
        if size and (desk.draws or measuring.unmeasurable(recipe, plan) is None):
            said = list(told.job.lines)
            measuring.measure(folder, pipe, plan, told)
            told.job.lines[:] = said  # the page shows the numbers themselves
        elif size:
            told.say(str(measuring.unmeasurable(recipe, plan)))


class EraseTab:
    """The form, what it shows, and what its buttons do."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                self._ask()
            with gr.Column(scale=1, min_width=320):
                self.status = gr.HTML(elem_id="erase-status")
                with gr.Column(elem_classes=["pictures"]):
                    self.slider = gr.ImageSlider(
                        label="Before and after, same seed",
                        interactive=False,
                        elem_id="erase-slider",
                        max_height=390,
                    )
                self.numbers = gr.HTML(elem_id="erase-numbers")
        self.suggest.click(self._neighbours, [self.concepts, self.keep], self.keep)
        self.method.change(self._presets, self.method, self.preset)
        shown = [self.status, self.slider, self.numbers]
        self.done = self.start.click(self.erase, self._inputs(), shown, concurrency_limit=None)
        self.stop.click(leaving(desk), None, None, queue=False)

    def _ask(self) -> None:
        """Builds the form."""
        methods, words = method_choices(self.desk.model), self.desk.vocabulary
        several: dict[str, Any] = {"multiselect": True, "allow_custom_value": True}
        self.concepts = gr.Dropdown(words, label="Concepts to erase", elem_id="concepts", **several)
        self.method = gr.Dropdown(methods, value=_first(methods), label="Method", elem_id="method")
        self.name = gr.Textbox(label="Name of the run", placeholder="made of what is erased")
        with gr.Accordion("What stays, anchor, preset", open=False):
            self.keep = gr.Dropdown(words, label="Keep", **several)
            self.suggest = gr.Button("Suggest neighbours", size="sm")
            self.anchor = gr.Textbox(label="Anchor (empty: the empty prompt)")
            self.preset = gr.Dropdown(_presets(_first(methods)), value=_USUAL, label="Preset")
            self.settings = gr.Textbox(label="Settings (TOML)", lines=2, placeholder="steps = 100")
            self.seed = gr.Number(0, label="Seed", precision=0)
        sizes = ["", "smoke", "short", "standard"]
        self.size = gr.Dropdown(
            sizes, value="smoke", label="Measure with (empty: not)", elem_id="size"
        )
        self.resume = gr.Checkbox(label="Go on from a cancelled run of this name")
        with gr.Row():
            self.start = gr.Button("Erase", variant="primary", elem_id="erase")
            self.stop = gr.Button("Cancel", elem_id="cancel")

    def _inputs(self) -> set[Any]:
        """Lists what the form holds."""
        words = {self.concepts, self.method, self.name, self.keep, self.anchor}
        return {*words, self.preset, self.settings, self.seed, self.size, self.resume}

    def _neighbours(self, words: list[str] | None, kept: list[str] | None) -> list[str]:
        near = self.desk.neighbours(words or ())
        if not near:
            gr.Info("no neighbour of that is known; type what must stay")
        return list(dict.fromkeys([*(kept or ()), *near]))

    def _presets(self, method: str) -> Any:
        return gr.update(choices=_presets(method), value=_USUAL)

    def erase(self, given: dict[Any, Any], request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Erases what the form says, and shows how it goes."""
        words = given[self.concepts] or []
        try:
            recipe = recipe_of(
                self.desk,
                words,
                given[self.method],
                keep=given[self.keep] or (),
                anchor=given[self.anchor] or "",
                preset=given[self.preset],
                settings=given[self.settings] or "",
                seed=int(given[self.seed] or 0),
            )
            run = (given[self.name] or "").strip() or _free_name(self.desk, recipe)
            self.desk.place(run)
        except EffaceError as error:
            yield views.message(error, "bad"), gr.skip(), gr.skip()
            return
        resume, size = bool(given[self.resume]), given[self.size]

        def work(told: Told) -> None:
            erase_work(self.desk, recipe, run, told, resume=resume, size=size)

        queue = self.desk.queue
        job = queue.submit(f"Erase {', '.join(words)} as {run}", work, request.session_hash or "")
        shown = None
        for _ in queue.follow(job):
            pair, shown = (gr.skip() if job.result is shown else job.result), job.result
            yield views.progress(job, queue), pair, gr.skip()
        found = self.desk.evaluation(run) if job.state == "done" else None
        yield gr.skip(), gr.skip(), views.evaluation_table(found) if found else ""


def _first(methods: Sequence[tuple[str, str]]) -> str:
    names = [value for _, value in methods]
    return next((name for name in ("rece", "gs_lora") if name in names), names[0])


def _presets(method: str) -> list[tuple[str, str]]:
    named = registry.load("methods", method).presets()
    usual = ("what was measured on this model", _USUAL)
    return [usual, ("the method's defaults", ""), *((name, name) for name in named)]


def _free_name(desk: Desk, recipe: EraseRecipe) -> str:
    """Names a run after what it erases, with a number where that is taken."""
    words = "-".join(one.concept.name for one in recipe.request.erasures[:3])
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in f"{words}-{recipe.method}")
    names = [plain, *(f"{plain}-{number}" for number in range(2, 1000))]
    return next(name for name in names if not (Path(desk.root) / name).exists())
