"""An edited model folder, or one edited network, with the base's licence and the card beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from efface.contracts import Monitor, silent
from efface.deltas.delta import Delta
from efface.deltas.edited_copy import EditedCopy, edited_copy
from efface.errors import BadRequest
from efface.exchange.low_rank import check_exportable
from efface.files import seal, write_atomically

__all__ = ["LICENCES", "write_component", "write_folder"]

LICENCES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "NOTICE", "NOTICE.md", "NOTICE.txt")
"""Files of a base model that go along with every copy."""
CARD = "README.md"


def write_folder(
    base: Path,
    delta: Delta,
    out: Path,
    *,
    card: str | None = None,
    scale: float = 1.0,
    monitor: Monitor = silent,
) -> EditedCopy:
    """Writes a diffusers folder with the delta in its weights.

    The base's licence files come along, as all its files do. Its own card, which describes another
    model now, becomes ``README.base.md``, and the Erasure Card takes its place.

    Args:
        base: folder of the base model.
        delta: what is merged.
        out: name of the new folder.
        card: text of the Erasure Card; without one the base's card stays.
        scale: 1 is the whole change.
        monitor: called once per file.

    Raises:
        BadRequest, BadModel, BadDelta, ModelCollapsed: see `edited_copy`.
    """
    check_exportable(delta, scale=scale)
    made = edited_copy(base, delta, out, scale=scale, monitor=monitor)
    if card is not None:
        if (out / CARD).exists():
            (out / CARD).replace(out / "README.base.md")
        write_atomically(out / CARD, card.encode())
        seal(out)
    return made


def write_component(
    delta: Delta,
    out: Path,
    copy: Callable[[Path], EditedCopy],
) -> tuple[str, ...]:
    """Writes the edited networks alone, each in a folder of its name, with the base's licences.

    ``UNet2DConditionModel.from_pretrained(out / "unet")`` reads one, and so do tools that take a
    single network.

    Args:
        delta: says which networks are edited.
        out: name of the new folder; it must be free.
        copy: writes a whole edited folder to a place; see `write_folder`.

    Raises:
        BadRequest: ``out`` is taken.
    """
    if out.exists() and any(out.iterdir()):
        raise BadRequest(f"{out} is not empty; choose another --out")
    staging = out.parent / f".{out.name}.whole"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        copy(staging)
        parts = tuple(sorted({key.partition("/")[0] for key in delta.keys}))
        out.mkdir(parents=True, exist_ok=True)
        for part in parts:
            (staging / part).replace(out / part)
        for name in (*LICENCES, "efface.json"):
            if (staging / name).exists():
                (staging / name).replace(out / name)
        seal(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return parts
