"""Low-rank layers that turn the bundled model, just loaded, into one of its variants."""

from __future__ import annotations

from typing import Any

import torch

from efface.bundled import weights_folder
from efface.errors import BadModel

__all__ = ["add_layers"]


def add_layers(pipe: Any, variant: str) -> None:
    """Adds the layers of ``emoji-<variant>`` to the weights of a pipeline, in place.

    Raises:
        BadModel: the package was installed without its weights.
    """
    from safetensors.torch import load_file

    from efface.deltas.patches import LowRankPatch
    from efface.hosts.components import find

    path = weights_folder() / f"{variant}.safetensors"
    if not path.exists():
        raise BadModel(
            f"emoji-{variant} has no weights in this installation; reinstall efface, or rebuild "
            "them with `make emoji`"
        )
    factors = load_file(path)
    with torch.no_grad():
        for key in {name.partition("::")[0] for name in factors}:
            patch = LowRankPatch(factors[f"{key}::up"], factors[f"{key}::down"])
            for weight in find(pipe, key).values():
                weight.add_(patch.on(weight))
