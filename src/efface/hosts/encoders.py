"""Text encoders that stay on disk: each layer's weights are read when it runs, then dropped."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from efface.errors import BadModel
from efface.hosts.components import canonical
from efface.hosts.shards import StoredTensor, folder_json, stored_tensors

if TYPE_CHECKING:
    from jaxtyping import Int

__all__ = ["BAD_CONFIG", "StreamedEncoder"]

BAD_CONFIG = (TypeError, ValueError, RuntimeError, StrictDataclassError)
"""What libraries raise for a config that makes no sense."""

_SAME = {"encoder.embed_tokens.weight": "shared.weight"}
"""T5 reads its token embedding under the first name and saves it under the second."""


class StreamedEncoder(nn.Module):
    """Runs a text encoder in float32 without holding it.

    The network is built without memory. A layer's weights are read from the files as it is called,
    widened to float32, and dropped when it returns; of token embeddings only the rows that occur
    are read. The most that is held is the largest matrix, in the file's dtype and in float32.

    The network is no submodule: it has no weights that could be trained or edited in place.

    Raises:
        BadModel: the folder's files are broken or of another model than its config.
    """

    def __init__(self, part: Path, class_name: str) -> None:
        super().__init__()
        self.config, network = _empty(part, class_name)
        stored = stored_tensors(part)
        self.stored: dict[str, StoredTensor] = {}
        """Where each weight lies, by canonical path."""
        for path, module in network.named_modules():
            own = {
                name: _place(part, stored, f"{path}.{name}", parameter)
                for name, parameter in module.named_parameters(recurse=False)
            }
            self.stored |= {canonical(f"{path}.{name}"): place for name, place in own.items()}
            if own:
                _read_when_called(module, own)
        self._network = (network.eval().requires_grad_(requires_grad=False),)

    @property
    def network(self) -> nn.Module:
        """The network that runs; its weights are there only while a layer is called."""
        return self._network[0]

    @property
    def device(self) -> torch.device:
        """Where it runs: the CPU."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in, whatever the files hold."""
        return torch.float32

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Gives what the encoder's own class gives."""
        return self._network[0](*arguments, **named)


def _empty(part: Path, class_name: str) -> tuple[Any, nn.Module]:
    """Builds the network of a config; weights have no memory, buffers have their values."""
    from accelerate import init_empty_weights

    kind: Any = getattr(importlib.import_module("transformers"), class_name, None)
    if kind is None:
        raise BadModel(
            f"{part} needs {class_name}, which the installed transformers does not have; update it"
        )
    content = folder_json(part / "config.json")
    try:
        config = kind.config_class.from_dict(content)
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            return config, kind(config)
    except BAD_CONFIG as error:
        raise BadModel(
            f"{part / 'config.json'} does not describe a {class_name}: {error}"
        ) from error


def _place(
    part: Path, stored: Mapping[str, StoredTensor], path: str, parameter: Tensor
) -> StoredTensor:
    name = canonical(path)
    found = stored.get(name) or stored.get(_SAME.get(name, name))
    if found is None:
        raise BadModel(f"{part} lacks the tensor '{name}'; the weights are of another model")
    if found.shape != tuple(parameter.shape):
        raise BadModel(
            f"{part}: '{name}' has shape {found.shape} and the config says "
            f"{tuple(parameter.shape)}; weights and config are of different models"
        )
    return found


def _read_when_called(module: nn.Module, stored: Mapping[str, StoredTensor]) -> None:
    empty = dict(module.named_parameters(recurse=False))

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if isinstance(module, nn.Embedding) and inputs:
            numbers, renumbered = _occurring(inputs[0])
            _hold(module, "weight", stored["weight"].rows(numbers))
            return (renumbered, *inputs[1:])
        for name, place in stored.items():
            _hold(module, name, place.rows())
        return None

    def after(*_: Any) -> None:
        for name, parameter in empty.items():
            setattr(module, name, parameter)

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after, always_call=True)


def _hold(module: nn.Module, name: str, values: Tensor) -> None:
    setattr(module, name, nn.Parameter(values.to(torch.float32), requires_grad=False))


def _occurring(ids: Int[Tensor, "*shape"]) -> tuple[list[int], Int[Tensor, "*shape"]]:
    """Lists the rows of an embedding that ids name, and the ids as positions in that list."""
    numbers, renumbered = ids.unique(return_inverse=True)
    return numbers.tolist(), renumbered
