"""Measures runs of models that read pictures: which held-out pictures, in which roles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface import registry
from efface.errors import BadRequest, MissingInput
from efface.workbench import keeping, lineage, runs

if TYPE_CHECKING:
    from efface.data.pictures import LabelledPictures
    from efface.evaluation.detecting import SceneSuite
    from efface.evaluation.recognition import PictureSuite
    from efface.evaluation.record import Evaluation
    from efface.workbench.measuring import Plan
    from efface.workbench.telling import Telling

__all__ = ["check_flags", "check_held_out", "detects", "measured", "unmeasurable"]

_OF_GENERATORS = ("anchor", "images", "keep", "smoke", "preview", "cache")
_OF_READERS = ("forget_data", "retain_data", "test_data")
_JUDGING = ("suite", "judge", "judge_folder", "judge_settings", "clip", "metrics", "pictures")


def check_flags(model: str, options: Any) -> None:
    """Refuses flags of ``efface erase`` and ``evaluate`` that mean nothing for a kind of model.

    Raises:
        BadRequest: naming the flag and what to do instead.
    """
    reads = registry.reads_pictures(model)
    given = (*_OF_GENERATORS, *_JUDGING) if reads else _OF_READERS
    for name in given:
        if getattr(options, name, None):
            flag = f"--{name.replace('_', '-')}"
            raise BadRequest(
                f"{model} reads pictures, and {flag} is for models that draw; leave it out (what "
                "is not erased is retained, and --test-data measures)"
                if reads
                else f"{model} draws pictures, and {flag} is for models that read them; leave it "
                "out (--keep says what stays, --images what a concept looks like)"
            )
    if reads and options.size != "standard":
        raise BadRequest(
            f"--size {options.size} says how many pictures are drawn, and {model} draws none; "
            "leave it out, and give fewer held-out pictures with --test-data"
        )
    check_held_out(model, getattr(options, "test_data", None))


def check_held_out(model: str, place: str | None) -> None:
    """Refuses a place without held-out pictures, or scenes for detectors, before the work.

    Raises:
        MissingInput, BadRequest: see `efface.data.places.open_pictures` and
            `efface.data.scene_places.open_scenes`.
    """
    if place is None:
        return
    if detects(model):
        from efface.data.scene_places import open_scenes

        open_scenes(place)
    else:
        from efface.data.places import open_pictures

        open_pictures(place)


def unmeasurable(recipe: runs.Recipe, test_data: str | None) -> str | None:
    """Says why a run cannot be measured; None when there are held-out pictures.

    Raises:
        BadModel, MissingInput: the folder of the model cannot be read.
    """
    if test_data is not None or recipe.model in registry.VISION:
        return None
    return "not measured: that needs held-out pictures (--test-data FOLDER)"


def measured(folder: Path, model: Any, plan: Plan, output: Telling) -> Evaluation:
    """Compares the edited model with the unedited one on held-out pictures or scenes.

    Raises:
        MissingInput: there are none, or none of what was erased.
        BadRequest: a measurement of more pictures is there.
        BadRequest, BadDelta: see `efface.evaluation.recognition.evaluate_recogniser` and
            `efface.evaluation.detecting.evaluate_detector`.
    """
    run = runs.open_run(folder)
    recipe = runs.recipe_of(folder)
    *parents, _ = lineage.whole(run)
    store = plan.pictures or folder.absolute().parent / ".pictures"
    name, place = _held_out(recipe, plan.test_data)
    with lineage.on_top_of(parents, model), output.progress("recognising") as monitor:
        if detects(recipe.model):
            from efface.evaluation.detecting import evaluate_detector

            scenes = _scene_suite(model, recipe, name, place)
            keeping.refuse_fewer(folder, run.delta.id, plan, suite=scenes.name, count=scenes.count)
            return evaluate_detector(
                model, run.delta, scenes, store=store, limits=plan.limits, monitor=monitor
            )
        from efface.evaluation.recognition import evaluate_recogniser

        suite = _picture_suite(model, recipe, name, place)
        keeping.refuse_fewer(folder, run.delta.id, plan, suite=suite.name, count=len(suite.places))
        return evaluate_recogniser(
            model, run.delta, suite, store=store, limits=plan.limits, monitor=monitor
        )


def _picture_suite(model: Any, recipe: runs.Recipe, name: str, place: str) -> PictureSuite:
    """Says what the classes of held-out pictures stand for in a run."""
    from efface.data.pictures import numbered_as
    from efface.data.places import open_pictures
    from efface.evaluation.recognition import picture_suite
    from efface.runs.forgetting_data import known_pictures, retained_classes

    taught = retained_classes(model, recipe.request, recipe.model)
    return picture_suite(
        name,
        numbered_as(open_pictures(place), model.labels),
        **_roles(model, recipe, taught),
        strangers=_strangers(recipe.model),
        trained=known_pictures(model, recipe.request, recipe.model),
    )


def _scene_suite(model: Any, recipe: runs.Recipe, name: str, place: str) -> SceneSuite:
    """Says what the classes of held-out scenes stand for in a run."""
    from efface.data.scene_places import open_scenes
    from efface.data.scenes import scenes_numbered_as
    from efface.evaluation.detecting import scene_suite
    from efface.runs.forgetting_scenes import retained_things

    taught = retained_things(model, recipe.request, recipe.model)
    scenes = scenes_numbered_as(open_scenes(place), model.labels)
    return scene_suite(name, scenes, **_roles(model, recipe, taught))


def _roles(model: Any, recipe: runs.Recipe, taught: tuple[int, ...]) -> dict[str, Sequence[int]]:
    """Lists the classes that are erased, were erased earlier, and that training saw nothing of.

    Args:
        model: with the deltas of earlier requests in force.
        recipe: of the run.
        taught: classes that training retained; none if that is not known.
    """
    from efface.runs.forgetting_data import earlier_classes, erased_classes

    erased = erased_classes(model.labels, recipe.request)
    earlier = earlier_classes(model)
    known = {*erased, *earlier, *taught}
    missing = [n for n in range(len(model.labels)) if taught and n not in known]
    return {"erased": erased, "earlier": earlier, "missing": missing}


def _strangers(model: str) -> LabelledPictures | None:
    """Gives pictures of classes that a bundled model never knew."""
    if model not in registry.VISION:
        return None
    found: LabelledPictures = registry.bundled(model).strangers(model)
    return found


def detects(model: str) -> bool:
    """Says whether a model is a detector, by its config alone.

    Raises:
        BadModel, MissingInput: the folder of the model cannot be read.
    """
    from efface.hosts.detector import Detector
    from efface.hosts.preprocessing import folder_config

    name = str(model)
    folder = registry.bundled(name).folder(name) if name in registry.VISION else Path(name)
    classes = folder_config(folder, "config.json").get("architectures") or ["nothing"]
    return classes[0] in Detector.heads


def _held_out(recipe: runs.Recipe, place: str | None) -> tuple[str, str]:
    """Names the held-out pictures of a run, and says where they are."""
    if place is None:
        if recipe.model not in registry.VISION:
            what = "scenes" if detects(recipe.model) else "pictures"
            raise MissingInput(
                f"{recipe.model} is measured on {what} that it was not trained on: give "
                "--test-data FOLDER "
                + (
                    "with pictures and one JSON file in COCO's layout"
                    if what == "scenes"
                    else "with a folder of pictures for each class"
                )
            )
        place = f"{recipe.model}:test"
    name = place if place.partition(":")[0] in registry.VISION else Path(place).name
    return name.replace(":", "-"), place
