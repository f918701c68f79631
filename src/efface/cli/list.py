"""``efface list``: what exists, read from the files without importing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, cast

import tyro

from efface import registry
from efface.cli.shell import Shared, parse

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["catalogue", "run"]

What: TypeAlias = Literal[
    "methods",
    "attacks",
    "guides",
    "searches",
    "judges",
    "metrics",
    "suites",
    "models",
    "concepts",
    "styles",
]
Rows: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class List(Shared):
    """What to list."""

    what: Annotated[What, tyro.conf.Positional]
    """The kind of thing."""


def run(arguments: list[str], output: Output) -> int:
    """Prints a table of names and summaries, or everything known about them as JSON."""
    options = parse(List, arguments, prog="efface list", description="Lists what exists.")
    rows = catalogue(options.what)
    output.result({options.what: rows})
    output.say(_table(rows) if rows else f"no {options.what} yet")
    return 0


def catalogue(what: What) -> Rows:
    """Gives one row per thing; each has a ``name`` and a ``summary``."""
    own: Mapping[str, Callable[[], Rows]] = {
        "judges": _judges,
        "suites": _suites,
        "models": _models,
        "concepts": _concepts,
        "styles": _styles,
    }
    if what in own:
        return own[what]()
    return _found(cast("registry.Kind", what))


def _found(kind: registry.Kind) -> Rows:
    return [asdict(entry) for entry in registry.entries(kind)]


def _judges() -> Rows:
    own = [{"name": name, "summary": one} for name, one in registry.BUNDLED_JUDGES.items()]
    return [*own, *_found("judges")]


def _table(rows: Rows) -> Any:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(row["name"], row["summary"])
    return table


def _models() -> Rows:
    return [
        {"name": "emoji", "summary": "the bundled model: 64 x 64 icons of 64 things in 8 styles"},
        {"name": "emoji-remix", "summary": "a fine-tune of it: mirrored, on dark grounds"},
        {"name": "emoji-reader", "summary": "it with a text encoder that knows descriptions, too"},
        {
            "name": "emoji-scenes",
            "summary": "it at 192 x 64: one to three things side by side",
        },
        {"name": "icons-vit", "summary": "a classifier of the 64 things, which reads pictures"},
        {"name": "icons-identities", "summary": "a recogniser of icons as individuals"},
        {"name": "icons-detector", "summary": "a detector of some of them in scenes"},
        {
            "name": "FOLDER",
            "summary": "any folder in diffusers' layout of a family in docs/families.md,"
            " or of a model that reads pictures, in transformers' (docs/recognisers.md)",
        },
        {"name": "OWNER/NAME", "summary": "the same from the Hugging Face hub's local cache"},
    ]


def _concepts() -> Rows:
    from efface.bundled.vocabulary import NOUNS

    return [
        {"name": noun.name, "summary": ", ".join((noun.category, *noun.synonyms))}
        for noun in NOUNS.values()
    ]


def _styles() -> Rows:
    from efface.bundled.vocabulary import STYLES

    return [{"name": style.name, "summary": style.look} for style in STYLES.values()]


def _suites() -> Rows:
    from efface.evaluation.suites import SUITES

    return [
        {"name": name, "summary": (made.__doc__ or "").partition("\n")[0]}
        for name, made in SUITES.items()
    ]
