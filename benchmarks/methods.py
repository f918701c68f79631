"""Which methods of generators there are, by the registry: a new one is measured unlisted."""

from __future__ import annotations

from efface import registry
from efface.hosts.families import FAMILIES
from efface.training.settings import Training

__all__ = ["CLOSED_FORMS", "TRAINED", "WITH_FIRST_STAGES"]

_TRAINS = {
    name: issubclass(method, Training)
    for name in registry.list_methods()
    if not FAMILIES.keys().isdisjoint((method := registry.load("methods", name)).families)
}
CLOSED_FORMS = tuple(name for name, trains in _TRAINS.items() if not trains)
"""Methods that solve, and draw nothing."""
TRAINED = tuple(name for name, trains in _TRAINS.items() if trains)
"""Methods that train."""


def _first_stage(trained: str) -> str | None:
    """Finds the closed form whose second stage a method is, which is named after it."""
    return next((name for name in CLOSED_FORMS if trained.startswith(f"{name}_")), None)


_FIRST = {name: _first_stage(name) for name in TRAINED}
WITH_FIRST_STAGES = (
    *(f"{first}+{name}" if first else name for name, first in _FIRST.items()),
    *(name for name in CLOSED_FORMS if name not in _FIRST.values()),
)
"""Every method as it is meant: second stages after their first, and the others by themselves."""
