"""The licence and languages of a base model, as the card in its folder says them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface import registry

__all__ = ["BaseCard", "base_card"]

_CARD = "README.md"
_FENCE = "---\n"


@dataclass(frozen=True)
class BaseCard:
    """What the metadata of a model card say; empty where they say nothing."""

    licence: str = ""
    """As hubs name it; ``other`` where it is one of its own."""
    licence_name: str = ""
    """The name of one of its own."""
    licence_link: str = ""
    languages: tuple[str, ...] = ()
    base_model: str = ""
    """Its name on the hub, if the card says that it is a copy of that."""

    @property
    def title(self) -> str:
        """The licence for people, with its link; empty where it is not known."""
        name = self.licence_name or self.licence
        return f"{name} ({self.licence_link})" if self.licence_link else name


def base_card(model: str) -> BaseCard:
    """Reads the card of a base model; one that is no folder here, or has none, says nothing.

    Args:
        model: a bundled model or a folder.
    """
    file = _file(model)
    try:
        text = file.read_text(encoding="utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return BaseCard()
    _, fence, rest = text.partition(_FENCE)
    if not text.startswith(_FENCE) or not fence:
        return BaseCard()
    values = _read(rest.partition(f"\n{_FENCE.strip()}")[0])
    languages = values.get("language") or ()
    return BaseCard(
        licence=_text(values, "license"),
        licence_name=_text(values, "license_name"),
        licence_link=_text(values, "license_link"),
        languages=(languages,) if isinstance(languages, str) else tuple(map(str, languages)),
        base_model=_text(values, "base_model"),
    )


def _file(model: str) -> Path:
    if model in registry.BUNDLED:
        return Path(__file__).parents[1] / "bundled" / "weights" / _CARD
    return Path(model) / _CARD


def _read(text: str) -> Mapping[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, Mapping) else {}


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""
