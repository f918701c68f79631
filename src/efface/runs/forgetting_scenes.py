"""What a method that makes a detector forget does around its loss: scenes, batches, the loss."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from efface.concepts import CONTENT, ErasureRequest
from efface.contracts import Monitor
from efface.data.scene_places import open_scenes
from efface.data.scenes import (
    Annotated,
    ScenePictures,
    require_things,
    scenes_numbered_as,
    scenes_with,
    scenes_without,
    shared_scenes,
    some_scenes,
)
from efface.errors import BadRequest, MissingInput
from efface.hosts.detector import Detector
from efface.hosts.vision import VisionModel
from efface.registry import VISION, bundled
from efface.runs.forgetting_data import ForgettingData, erased_classes, unerased
from efface.runs.forgetting_eraser import ForgettingEraser
from efface.runs.forgetting_training import ForgettingTraining

__all__ = ["SceneBatch", "SceneForgettingRun", "forgetting_scenes", "retained_things"]


class SceneBatch(NamedTuple):
    """Some scenes, as the network reads them, with what is in them."""

    pixels: Float[Tensor, "n 3 h w"]
    things: list[Annotated]


class SceneForgettingRun(ForgettingTraining[Detector, ScenePictures]):
    """One run of a method on scenes: see `ForgettingTraining`.

    Args:
        method: its settings.
        model: the detector, which the run leaves as it was; earlier requests may be in force on it.
        request: what goes, and where the scenes are.
        generator: of all draws; every purpose gets its own.
        monitor: called once a step.

    Raises:
        BadRequest, MissingInput: see `forgetting_scenes`; or the method does not edit detectors.
        BadModel: weights are packed, offloaded, or narrower than float32.
    """

    def __init__(
        self,
        method: ForgettingEraser,
        model: Any,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor,
    ) -> None:
        super().__init__(
            method,
            model,
            request,
            host=Detector,
            opened=forgetting_scenes,
            generator=generator,
            monitor=monitor,
        )
        self.gone = frozenset((*self.data.classes, *self.data.earlier))
        """Classes that are left out of account where others are retained."""

    def replayed(self, examples: ScenePictures, draws: torch.Generator) -> ScenePictures:
        """Draws the share of the scenes, all alike, since each shows things of several classes.

        Raises:
            BadRequest: so many pictures of each class are asked for.
        """
        if self.method.shots:
            raise BadRequest(
                f"shots is {self.method.shots}, and scenes show things of several classes, so that "
                "no number of them is one of a class; set replay to a share of the scenes"
            )
        if self.method.replay == 1:
            return examples
        order = torch.randperm(len(examples), generator=draws)
        count = max(1, round(self.method.replay * len(examples)))
        return some_scenes(examples, order[:count].sort().values.tolist())

    def forget_batch(self, generator: torch.Generator) -> SceneBatch:
        """Deals scenes with things that are erased, and others beside them."""
        return self._read(self.forget, self._dealt["forget"].next(generator))

    def retain_batch(self, generator: torch.Generator) -> SceneBatch:
        """Deals scenes with nothing that is erased."""
        return self._read(self.retain, self._dealt["retain"].next(generator))

    def _read(self, pictures: ScenePictures, which: Tensor) -> SceneBatch:
        read = pictures.scenes(which.tolist())
        pixels = self.model.prepared([each.pixels for each in read])
        self.evaluations += len(read)
        things = [Annotated(*(part.to(pixels.device) for part in each[1:])) for each in read]
        return SceneBatch(pixels, things)


def forgetting_scenes(
    model: VisionModel, request: ErasureRequest, place: str
) -> ForgettingData[ScenePictures]:
    """Opens the scenes of a request.

    Erased are all things of some classes; other things in the same scenes are retained, as are all
    scenes that show nothing erased.

    Args:
        model: whose head numbers the classes; earlier requests' deltas are in force on it.
        request: what goes; without places, a bundled detector's own scenes are taken.
        place: the model's name or folder.

    Raises:
        MissingInput: there are no scenes, or no thing of a class that is erased.
        BadRequest: the head lacks a class, both sets share scenes, single pictures are to be
            erased, or nothing is retained.
    """
    if any(one.concept.kind == "content" for one in request.erasures):
        raise BadRequest(
            "a detector forgets classes of things, and single pictures are to be erased here; "
            "name the class with --concept"
        )
    classes = erased_classes(model.labels, request)
    earlier = unerased(model, classes)
    every = _opened(model, request.retain_data, place)
    if every is None:
        raise MissingInput(
            f"{place or 'this detector'} learns to forget from scenes: give --retain-data FOLDER "
            "with pictures and one JSON file in COCO's layout (docs/recognisers.md)"
        )
    given = _opened(model, request.forget_data, "")
    source = every if given is None else given
    require_things(source, classes)
    forget, retain = scenes_with(source, classes), scenes_without(every, classes)
    if given is not None and (both := shared_scenes(forget, retain)):
        raise BadRequest(
            f"{both} scenes show what is to be forgotten in one set and nothing of it in the "
            "other; take them out of one of the two"
        )
    if not len(retain):
        raise BadRequest("nothing is left to retain: every scene shows a class that is erased")
    return ForgettingData(forget, retain, classes, earlier)


def _opened(model: VisionModel, place: Any, name: str) -> ScenePictures | None:
    """Opens a place, or a bundled detector's own scenes, with the head's class numbers."""
    if place is None and name in VISION:
        place = bundled(name).pictures(name, "train")
    return None if place is None else scenes_numbered_as(open_scenes(place), model.labels)


def retained_things(model: VisionModel, request: ErasureRequest, place: str) -> tuple[int, ...]:
    """Lists the classes of which training saw a thing that it retained; none if none is known.

    Args:
        model: whose head numbers the classes.
        request: names the retained scenes, or a bundled detector has them.
        place: the model's name or folder.
    """
    if str(request.retain_data).startswith(CONTENT):
        return ()
    every = _opened(model, request.retain_data, place)
    seen = set() if every is None else {n for each in every.things for n in each.classes.tolist()}
    return tuple(sorted(seen))
