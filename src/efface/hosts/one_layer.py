"""What families have in common whose transformer reads one encoder through one layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

from efface.hosts.host import Host, WidthRead, class_names, width_read
from efface.hosts.readers import TextReader, single_layer
from efface.hosts.streams import TextStream

__all__ = ["TOKENS", "OneLayerHost"]

TOKENS = "transformer/text_tokens"
"""The key of the layer that reads tokens."""


class OneLayerHost(Host):
    """A family whose transformer reads the tokens of one text encoder through one layer."""

    part: ClassVar[str] = "transformer"
    transformer: ClassVar[str]
    """The transformer's class in diffusers."""

    @property
    @abstractmethod
    def stream(self) -> TextStream:
        """What the layer reads."""

    @classmethod
    def recognises(cls, model: Any) -> bool:
        """Goes by the transformer's class."""
        return cls.transformer in class_names(getattr(model, "transformer", None))

    @classmethod
    def widths_read(
        cls, tokens: Mapping[str, int], _pooled: Mapping[str, int]
    ) -> Iterator[WidthRead]:
        """The encoder gives the tokens."""
        yield width_read(TOKENS, tokens.get("text_encoder", 0))

    @cached_property
    def readers(self) -> tuple[TextReader, ...]:
        """The layer that reads tokens."""
        return (single_layer(self.model, TOKENS, (self.stream,)),)
