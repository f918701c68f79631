"""Pictures that several attacks on one model need, each drawn once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor

__all__ = ["SharedPictures"]

MOST = 64
"""Sets of pictures that are remembered; the one that was asked for longest ago makes way."""


class SharedPictures:
    """Remembers what attacks on one model draw alike: trials before an attack, and its concept.

    What an attack costs is counted as if it had drawn all of it, so that a record does not depend
    on those before.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._model = ""

    def keep_for(self, model: str) -> None:
        """Forgets all that was drawn by another model, or by this one with other weights.

        Args:
            model: identifies model and weights.
        """
        if model != self._model:
            self._held.clear()
        self._model = model

    def of(self, what: Hashable, draw: Callable[[], Tensor]) -> Tensor:
        """Gives a copy of what was drawn, by ``draw`` where it was not drawn before.

        Args:
            what: all that decides the pictures, but for the model.
            draw: draws them.
        """
        if what not in self._held:
            self._held[what] = draw()
            if len(self._held) > MOST:
                self._held.popitem(last=False)
        self._held.move_to_end(what)
        return self._held[what].clone()
