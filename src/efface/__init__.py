"""Erase concepts from image models, and measure what was erased and what was not."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from efface.former_names import FormerNames

if TYPE_CHECKING:
    from efface.concepts import Concept, Erasure, ErasureRequest, request
    from efface.deltas.composition import compose
    from efface.deltas.delta import Delta
    from efface.deltas.edited_copy import edited_copy
    from efface.deltas.results import ErasureResult
    from efface.evaluation.debias import Debias, debias
    from efface.evaluation.runner import evaluate
    from efface.exchange.adapter import load_adapter
    from efface.exchange.imports import import_delta
    from efface.guiding.drawing import guide, guided
    from efface.hosts.loading import load
    from efface.hosts.streaming import stream
    from efface.registry import list_methods
    from efface.runs.erasing import erase
    from efface.runs.workspace import Workspace

__all__ = [
    "Concept",
    "Debias",
    "Delta",
    "Erasure",
    "ErasureRequest",
    "ErasureResult",
    "Workspace",
    "compose",
    "debias",
    "edited_copy",
    "erase",
    "evaluate",
    "guide",
    "guided",
    "import_delta",
    "list_methods",
    "load",
    "load_adapter",
    "request",
    "stream",
]

_HOMES = {
    "Concept": "efface.concepts",
    "Debias": "efface.evaluation.debias",
    "Delta": "efface.deltas.delta",
    "Erasure": "efface.concepts",
    "ErasureRequest": "efface.concepts",
    "ErasureResult": "efface.deltas.results",
    "Workspace": "efface.runs.workspace",
    "compose": "efface.deltas.composition",
    "debias": "efface.evaluation.debias",
    "edited_copy": "efface.deltas.edited_copy",
    "erase": "efface.runs.erasing",
    "evaluate": "efface.evaluation.runner",
    "guide": "efface.guiding.drawing",
    "guided": "efface.guiding.drawing",
    "import_delta": "efface.exchange.imports",
    "list_methods": "efface.registry",
    "load": "efface.hosts.loading",
    "load_adapter": "efface.exchange.adapter",
    "request": "efface.concepts",
    "stream": "efface.hosts.streaming",
}


FormerNames.install()


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that ``import efface`` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'efface' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
