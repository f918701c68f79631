"""Models that read pictures: what methods may ask of one, and where its parts are."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.errors import BadModel, BadRequest
from efface.hosts.components import canonical, unwrapped

__all__ = [
    "FeedForward",
    "Preprocess",
    "VisionHost",
    "VisionModel",
    "feed_forward_pairs",
    "labels_of",
]

Preprocess: TypeAlias = "Callable[[Sequence[Float[Tensor, '3 h w']]], Float[Tensor, 'n 3 h w']]"
"""Turns pictures with pixels of 0 to 1, of any sizes, into what a network reads."""

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_BLOCK = re.compile(r"^(.*\.)?\d+$")


@dataclass(eq=False)
class VisionModel:
    """A network that reads pictures, how it wants them, and what its outputs are called.

    Deltas made for it fit the bare network as well: both call it ``model``.
    """

    model: nn.Module
    """Of transformers, or of this package."""
    preprocessing: Preprocess
    labels: tuple[str, ...]
    """Names of the classes by number."""

    @property
    def config(self) -> Any:
        """The network's own settings."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    def prepared(self, pictures: Sequence[Float[Tensor, "3 h w"]]) -> Float[Tensor, "n 3 h w"]:
        """Prepares pictures with pixels of 0 to 1 and puts them beside the network."""
        return self.preprocessing(pictures).to(self.device, next(self.model.parameters()).dtype)

    def classify(self, pictures: Sequence[Float[Tensor, "3 h w"]]) -> list[str]:
        """Names what is in each picture.

        Raises:
            BadModel: it is not a classifier.
        """
        with torch.no_grad():
            logits = self.model(pixel_values=self.prepared(pictures)).logits
        if logits.ndim != 2:
            raise BadModel(f"a {type(self.model).__name__} does not give a picture one name")
        return [self.labels[number] for number in logits.argmax(1).tolist()]


class FeedForward(NamedTuple):
    """The two linear layers of a block's feed-forward network, by their paths."""

    block: str
    first: str
    second: str


class VisionHost(ABC):
    """One kind of model that reads pictures.

    Args:
        model: with a network of the kind.
    """

    key: ClassVar[str]
    """The kind's name in settings and files."""
    title: ClassVar[str]
    """Its name for people."""
    heads: ClassVar[Mapping[str, tuple[str, ...]]]
    """Class of a network -> patterns of the modules that make classes of features."""

    def __init__(self, model: VisionModel) -> None:
        self.model = model

    @classmethod
    def recognises(cls, model: Any) -> bool:
        """Says whether a model is of this kind, by its network's class alone."""
        network = model if isinstance(model, nn.Module) else getattr(model, "model", None)
        return type(unwrapped(network)).__name__ in cls.heads

    @classmethod
    @abstractmethod
    def toy(cls, architecture: str, *, seed: int = 0, classes: int = 6) -> VisionModel:
        """Builds a model of a real class at toy size, with random weights."""

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        network: nn.Module = unwrapped(self.model.model)
        return network

    @property
    def classes(self) -> int:
        """Counts the classes."""
        return len(self.model.labels)

    @cached_property
    def head(self) -> tuple[str, ...]:
        """Lists the modules that make classes of features, by path.

        Raises:
            BadModel: there is none where this class of network has it.
        """
        kind = type(self.network).__name__
        patterns = [re.compile(each) for each in self.heads[kind]]
        found = [
            path
            for path, _ in self.network.named_modules()
            if any(pattern.fullmatch(path) for pattern in patterns)
        ]
        if not found:
            raise BadModel(
                f"this {kind} has no module {self.heads[kind][0]}, so its classes "
                "cannot be told apart from the rest; load it with its head"
            )
        return tuple(found)

    @cached_property
    def feed_forward(self) -> tuple[FeedForward, ...]:
        """Lists the feed-forward networks, one a block, in order.

        Raises:
            BadRequest: there is none, as in convolutional networks.
        """
        found = feed_forward_pairs(self.network)
        if not found:
            raise BadRequest(
                f"a {type(self.network).__name__} has no feed-forward layers in blocks; choose a "
                "method that trains other weights, such as fine_tune or scrub"
            )
        return found

    def last_layers(self, count: int) -> tuple[str, ...]:
        """Lists the last linear layers and convolutions, the very last first.

        Raises:
            BadRequest: there are not so many.
        """
        every = [
            path
            for path, module in self.network.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) or path in self.head
        ]
        if not 0 < count <= len(every):
            raise BadRequest(f"the last {count} of {len(every)} layers were asked for")
        return tuple(reversed(every[-count:]))

    def weights(self, *, head: bool = True) -> dict[str, nn.Parameter]:
        """Lists all parameters by key.

        Args:
            head: whether those of the head are among them.
        """
        named = self.network.named_parameters()
        return {
            f"model/{canonical(path)}": weight
            for path, weight in named
            if head or not self._in_head(path)
        }

    def weights_of(self, paths: Sequence[str]) -> dict[str, nn.Parameter]:
        """Lists the parameters of some modules by key."""
        return {
            f"model/{canonical(f'{path}.{name}')}": weight
            for path in paths
            for name, weight in self.network.get_submodule(path).named_parameters()
        }

    def _in_head(self, path: str) -> bool:
        return any(path.startswith(f"{each}.") for each in self.head)

    @contextmanager
    def _head_inputs(self) -> Iterator[list[Tensor]]:
        """Collects what the first module of the head reads, in the order of calls."""
        found: list[Tensor] = []
        module = self.network.get_submodule(self.head[0])

        def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            found.append(given[0])

        handle = module.register_forward_pre_hook(note)
        try:
            yield found
        finally:
            handle.remove()


def feed_forward_pairs(network: nn.Module) -> tuple[FeedForward, ...]:
    """Finds the feed-forward networks of repeated blocks by their shapes, whatever they are called.

    A block is a member of a list of modules; its pair widens and narrows again, d to h and h to d
    with other h than d, and is not part of attention.
    """
    found = []
    for block, module in network.named_modules():
        if not _BLOCK.match(block):
            continue
        layers = [
            (f"{block}.{path}", layer)
            for path, layer in module.named_modules()
            if isinstance(layer, nn.Linear) and not _ATTENTION.search(path)
            if not any(_BLOCK.match(path[: place.start()]) for place in re.finditer(r"\.", path))
        ]
        pairs = [
            FeedForward(block, first, second)
            for (first, one), (second, two) in pairwise(layers)
            if one.out_features == two.in_features != one.in_features == two.out_features
        ]
        found += pairs[:1]
    return tuple(found)


def labels_of(config: Any) -> tuple[str, ...]:
    """Reads the names of a network's classes from its config, in the order of their numbers."""
    return tuple(str(config.id2label[number]) for number in range(int(config.num_labels)))
