"""Modules that had other names before: scripts that import them still run, and are told the new."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["FormerNames"]

ROOMS = {"efface.models": "efface.hosts", "efface.emoji": "efface.bundled"}
"""Packages by their former name."""
SPLIT = {
    "efface.hosts.tiny": ("efface.hosts.families", "efface.hosts.toys"),
    "efface.hosts.tiny_families": ("efface.hosts.families", "efface.hosts.toys"),
    "efface.hosts.architectures": ("efface.hosts.families", "efface.hosts.roles"),
}
"""Modules that are several by now."""
RENAMED = {"tiny_stable_diffusion": "tiny_pipeline"}


class FormerNames(MetaPathFinder, Loader):
    """Finds modules by their former names; it is asked last, for what nothing else finds."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Knows every module of the packages that were renamed."""
        del path, target
        known = any(fullname == room or fullname.startswith(f"{room}.") for room in ROOMS)
        return ModuleSpec(fullname, self, is_package=True) if known else None

    def exec_module(self, module: ModuleType) -> None:
        """Lets a module hand out what its successors hold."""
        former = module.__name__
        room = next(room for room in ROOMS if f"{former}.".startswith(f"{room}."))
        present = ROOMS[room] + former.removeprefix(room)
        homes = SPLIT.get(present, (present,))
        try:
            found = [importlib.import_module(home) for home in homes]
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"No module named '{former}'", name=former) from error
        warnings.warn(
            f"{former} is {' and '.join(homes)} now; import from there",
            FutureWarning,
            stacklevel=2,
        )

        def lookup(name: str) -> Any:
            for home in found:
                if hasattr(home, RENAMED.get(name, name)):
                    return getattr(home, RENAMED.get(name, name))
            raise AttributeError(f"module '{former}' has no attribute '{name}'")

        vars(module)["__getattr__"] = lookup

    @classmethod
    def install(cls) -> None:
        """Asks this finder last, once."""
        if not any(isinstance(finder, cls) for finder in sys.meta_path):
            sys.meta_path.append(cls())
