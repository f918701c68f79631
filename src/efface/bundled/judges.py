"""The bundled judges by name."""

from __future__ import annotations

from typing import TypeAlias

from efface.bundled.judge import EmojiJudge
from efface.bundled.scene_judge import SceneJudge

__all__ = ["BundledJudge", "bundled_judge"]

BundledJudge: TypeAlias = EmojiJudge | SceneJudge


def bundled_judge(name: str) -> BundledJudge:
    """Loads a judge that comes with the package.

    Args:
        name: of an `EmojiJudge`, or ``emoji-scenes``.
    """
    if name == "emoji-scenes":
        return SceneJudge()
    return EmojiJudge(name)  # type: ignore[arg-type]  # names are checked where they are given
