"""Fills templates of pages in: escaped, without scripts, and with a policy for their one style."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from markupsafe import Markup

from efface.printable import printable
from efface.reports import wording

__all__ = ["Placed", "rendered"]


class Placed:
    """Classes for places along a scale, in place of style attributes, which policies refuse."""

    def __init__(self) -> None:
        self._used: dict[str, str] = {}

    def at(self, left: float, width: float | None = None) -> str:
        """Gives the class of a place in percent, and of a width if there is one."""
        rule = f"left:{left:g}%" + ("" if width is None else f";width:{width:g}%")
        return self._used.setdefault(rule, f"at{len(self._used)}")

    def rules(self) -> Markup:
        """Writes the style rules of all classes that were given out."""
        lines = (f".{name}{{{rule}}}" for rule, name in self._used.items())
        return Markup("\n".join(lines))


def rendered(template: str, context: dict[str, Any]) -> str:
    """Fills a template in; prompts and names are others' text, and are escaped in every one."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("efface.reports"),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": wording.size, "json": _json, "policy": _policy}
    return environment.get_template(template).render({**context, "placed": Placed()})


def _visible(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _policy(style: str) -> str:
    """Writes the strictest policy under which a page with this one style element is shown."""
    digest = base64.b64encode(hashlib.sha256(str(style).encode()).digest()).decode("ascii")
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str)
