"""Can numbers of forgetting in a detector be read? Checked in every run, on its own answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jaxtyping import Int
from torch import Tensor

from efface.evaluation.detecting_rows import Look, Things
from efface.evaluation.likeness import LEAST_SEEN
from efface.evaluation.recognition_controls import LEAST_RECOGNISED, MOST_MISTAKEN, ONE_CLASS
from efface.evaluation.record import Control
from efface.metrics.estimates import rate

__all__ = ["detecting_controls"]


def detecting_controls(
    before: Look, after: Look | None, things: Things, *, names: Sequence[str]
) -> tuple[Control, ...]:
    """Checks what the unedited detector knows, and whether the edit did something, not too much.

    Args:
        before: what the unedited model finds.
        after: what the edited model finds; None: its answers are not finite.
        things: what is there.
        names: of the head's classes.
    """
    erased = things.classes[things.of("erased")].unique().tolist()
    controls: list[Control] = []
    for number in erased:
        controls.append(_known(before, things, number, names[number]))
        controls.append(_mistaken(before, things, number, names[number]))
    controls.append(_sound(before, after, things, names))
    if after is not None:
        controls.append(_changed(before, after, things))
    return tuple(controls)


def _known(before: Look, things: Things, number: int, name: str) -> Control:
    """Checks that the unedited model finds a class that is to go."""
    mine = things.classes == number
    found = rate(before.found[mine].double().tolist(), things.scenes[mine].tolist())
    return Control(
        name="positive",
        concept=name,
        passed=found.value >= LEAST_RECOGNISED,
        estimate=found,
        requirement=(
            f"the unedited model finds '{name}' in at least {LEAST_RECOGNISED:.0%} of the places "
            "where there is one"
        ),
    )


def _mistaken(before: Look, things: Things, number: int, name: str) -> Control:
    """Checks that the unedited model does not find a class in the places of other things."""
    others = things.of("kept", "missing")
    called = (before.called[others] == number).double().tolist()
    found = rate(called, things.scenes[others].tolist())
    return Control(
        name="negative",
        concept=name,
        passed=found.value <= MOST_MISTAKEN,
        estimate=found,
        requirement=(
            f"the unedited model finds '{name}' in at most {MOST_MISTAKEN:.0%} of the places of "
            "things that are kept"
        ),
    )


def _sound(before: Look, after: Look | None, things: Things, names: Sequence[str]) -> Control:
    """Checks that the edited model still finds things of the retained classes."""
    stays = things.of("kept", "missing")
    details = [] if after is not None else ["its answers are not finite"]
    found = None
    if after is not None:
        groups = things.scenes[stays].tolist()
        found, known = (rate(x.found[stays].double().tolist(), groups) for x in (after, before))
        if found.value < LEAST_SEEN * known.value:
            details.append(
                f"it finds {found.hits} of {found.count} retained things, {known.hits} before (at "
                f"least {LEAST_SEEN:.0%} of that is asked)"
            )
        details += _one_class(after.boxes, things, names)
    return Control(
        name="model",
        concept="",
        passed=not details,
        estimate=found,
        requirement="the edited model still finds things of the retained classes",
        details=tuple(details),
    )


def _one_class(
    boxes: Int[Tensor, " classes"], things: Things, names: Sequence[str]
) -> Iterator[str]:
    """Says whether nearly all boxes are of one class, which nearly all things are not."""
    number, every = int(boxes.argmax()), int(boxes.sum())
    shown = int((things.classes == number).sum())
    if every and int(boxes[number]) >= ONE_CLASS * every and 2 * shown <= len(things.classes):
        yield (
            f"it calls {int(boxes[number])} of {every} things '{names[number]}', and "
            f"{shown} of {len(things.classes)} are"
        )


def _changed(before: Look, after: Look, things: Things) -> Control:
    """Checks that the edit changes what is found where something that is to go is."""
    own = things.of("erased")
    moved = before.called[own] != after.called[own]
    details = (
        f"NothingChanged: the places of all {int(own.sum())} things that are to go are called what "
        "they were called before",
    )
    return Control(
        name="edit",
        concept="",
        passed=bool(moved.any()),
        estimate=rate(moved.double().tolist(), things.scenes[own].tolist()),
        requirement="the edit changes what the model finds in the places of what is to go",
        details=() if bool(moved.any()) else details,
    )
