"""Text encoders that stay on disk: each layer's weights are read when it runs, then dropped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from efface.errors import BadModel
from efface.hosts.components import canonical
from efface.hosts.libraries import check_configs, library_class, library_errors
from efface.hosts.shards import StoredTensor, folder_json, stored_tensors

if TYPE_CHECKING:
    from jaxtyping import Int

__all__ = ["StreamedEncoder"]


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
        heads = _tied_heads(network, stored)
        self.stored: dict[str, StoredTensor] = {}
        """Where each weight lies, by canonical path."""
        for path, module in network.named_modules():
            own = {
                name: _place(part, stored, f"{path}.{name}", parameter)
                for name, parameter in module.named_parameters(recurse=False)
                if canonical(f"{path}.{name}") not in heads
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

    kind = library_class(part.parent / "model_index.json", "transformers", class_name)
    check_configs(part)
    folder_json(part / "config.json")
    with library_errors(part / "config.json", f"describe a {class_name}"):
        # From the folder, as one that was copied from a whole CLIP holds the text's inside.
        config = kind.config_class.from_pretrained(part, local_files_only=True)
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            return config, kind(config)


def _tied_heads(network: Any, stored: Mapping[str, StoredTensor]) -> set[str]:
    """Names heads that files leave out, being the token embedding once more; no text passes them.

    Small Qwen 3 models have such a head.
    """
    tied = getattr(network, "_tied_weights_keys", None) or {}
    if not getattr(network.config, "tie_word_embeddings", False) or not isinstance(tied, dict):
        return set()
    heads = {canonical(head): canonical(words) for head, words in tied.items()}
    return {head for head, words in heads.items() if head not in stored and words in stored}


def _place(
    part: Path, stored: Mapping[str, StoredTensor], path: str, parameter: Tensor
) -> StoredTensor:
    name = canonical(path)
    found = stored.get(name)
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
