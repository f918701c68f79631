"""Measures runs of models that read pictures: which held-out pictures, in which roles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface import registry
from efface.cli import lineage, runs
from efface.errors import BadRequest, MissingInput

if TYPE_CHECKING:
    from efface.cli.measuring import Plan
    from efface.cli.output import Output
    from efface.data.pictures import LabelledPictures
    from efface.evaluation.record import Evaluation

__all__ = ["detects", "measured", "unmeasurable"]

_NO_DETECTORS = (
    "a run of a detector has no report yet; score it with efface.evaluation.detection, as "
    "benchmarks/forgetting_detector.py does"
)


def unmeasurable(recipe: runs.Recipe, test_data: str | None) -> str | None:
    """Says why a run cannot be measured; None when there are held-out pictures.

    Raises:
        BadModel, MissingInput: the folder of the model cannot be read.
    """
    if detects(recipe.model):
        return f"not measured: {_NO_DETECTORS}"
    if test_data is not None or recipe.model in registry.VISION:
        return None
    return "not measured: that needs held-out pictures (--test-data FOLDER)"


def measured(folder: Path, model: Any, plan: Plan, output: Output) -> Evaluation:
    """Compares the edited model with the unedited one on held-out pictures.

    Raises:
        MissingInput: there are none, or none of what was erased.
        BadRequest, BadDelta: the model is a detector; or see
            `efface.evaluation.recognition.evaluate_recogniser`.
    """
    from efface.evaluation.recognition import evaluate_recogniser, picture_suite
    from efface.runs.forgetting_data import earlier_classes, erased_classes, retained_classes

    run = runs.open_run(folder)
    recipe = runs.recipe_of(folder)
    if detects(recipe.model):
        raise BadRequest(f"{recipe.model} is a detector: {_NO_DETECTORS}")
    *parents, _ = lineage.whole(run)
    name, pictures = _held_out(model, recipe, plan.test_data)
    with lineage.on_top_of(parents, model), output.progress("recognising") as monitor:
        erased = erased_classes(model.labels, recipe.request)
        earlier = earlier_classes(model)
        taught = retained_classes(model, recipe.request, recipe.model)
        known = {*erased, *earlier, *taught}
        missing = [n for n in range(len(model.labels)) if taught and n not in known]
        suite = picture_suite(name, pictures, erased=erased, earlier=earlier, missing=missing)
        store = plan.pictures or folder.absolute().parent / ".pictures"
        return evaluate_recogniser(
            model, run.delta, suite, store=store, limits=plan.limits, monitor=monitor
        )


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


def _held_out(model: Any, recipe: runs.Recipe, place: str | None) -> tuple[str, LabelledPictures]:
    """Opens the held-out pictures, numbered as the head is, and names them."""
    from efface.data.pictures import numbered_as
    from efface.data.places import open_pictures

    if place is None:
        if recipe.model not in registry.VISION:
            raise MissingInput("give held-out pictures: --test-data FOLDER")
        place = f"{recipe.model}:test"
    name = place if place.partition(":")[0] in registry.VISION else Path(place).name
    return name.replace(":", "-"), numbered_as(open_pictures(place), model.labels)
