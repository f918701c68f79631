"""One page per method: summary, paper, settings and presets, all read from the method itself."""

from __future__ import annotations

import re
import textwrap
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import method_pictures
import recogniser_pictures
from efface import registry
from method_pictures import FOLDER
from method_results import elsewhere
from readme_tables import measured

CELLS = (
    "Presence by the bundled judge before → after in per cent, with the 95 % interval of the "
    "latter; ↓ marks what should fall. [Measuring](../measuring.md) says how."
)


def pages(folder: Path, results: Path) -> dict[Path, str]:
    """Gives the text of every method's page and of their index."""
    entries = registry.entries("methods")
    texts = {folder / f"{entry.name}.md": _page(entry, results) for entry in entries}
    return {**texts, folder / "index.md": _index(entries)}


def _index(entries: tuple[registry.Entry, ...]) -> str:
    text = (
        "# Methods\n\nEvery method in one line. Its page has the paper, settings, presets, "
        "pictures and results; [which method for what](../choosing.md) helps to choose. Generated "
        "by `make docs` from the methods' own files.\n"
    )
    reads = {entry.name: _reads(registry.load("methods", entry.name)) for entry in entries}
    for title, wanted in (
        ("For models that draw pictures", False),
        ("For models that read pictures: [recognisers](../recognisers.md)", True),
    ):
        rows = [
            f"| [{entry.name}]({entry.name}.md) | {entry.summary} |"
            for entry in entries
            if reads[entry.name] == wanted
        ]
        head = [f"\n## {title}\n", "| method | what it does |", "| --- | --- |"]
        text += "\n".join([*head, *rows, ""])
    return text


def _page(entry: registry.Entry, results: Path) -> str:
    found = registry.load("methods", entry.name)
    parts = [
        f"# {entry.name}",
        entry.summary,
        _facts(found),
        _markdown(entry.doc),
        f"## Use\n\n{_use(entry.name, found)}",
        f"## Settings\n\n{_settings(entry)}",
    ]
    if found.presets():
        parts.append(f"## Presets\n\n{_presets(found)}")
    if (FOLDER / f"{entry.name}.webp").exists():
        parts.append(f"## Pictures\n\n{_picture(entry.name, found)}")
    if tables := measured(entry.name, results):
        parts.append(f"## What it does to the bundled model\n\n{CELLS}\n\n{tables}")
    if tables := elsewhere(entry.name, results):
        parts.append(f"## Other results\n\n{tables}")
    parts.append(f"Source: [`{entry.module}`](../../src/{entry.module.replace('.', '/')}.py).")
    return "\n\n".join(parts) + "\n"


def _reads(found: type[Any]) -> bool:
    """Says whether a method is for models that read pictures."""
    return "model" in found.edits


def _picture(name: str, found: type[Any]) -> str:
    image = f"](../images/methods/{name}.webp)"
    if _reads(found):
        caption = recogniser_pictures.caption()
        return (
            f"![{caption}{image}\n\n{caption}. A wrong name is red: it is "
            "what is wanted of a forgotten class, and a loss of a kept one. Drawn by `python "
            f"tools/recogniser_pictures.py {name}` with the bundled model's own preset; six icons "
            "show how it looks, [the rates](../recognisers.md#what-came-out-here) say how often."
        )
    caption = method_pictures.caption(name)
    return (
        f"![{caption}{image}\n\n{caption}. Drawn by "
        f"`python tools/method_pictures.py {name}` with the bundled model's own preset; a few "
        "pictures show how it looks, the rates say how often."
    )


def _facts(found: type[Any]) -> str:
    paper = found.paper
    facts = {
        "Paper": f"[{paper.title}](https://arxiv.org/abs/{paper.arxiv}) ({paper.year})",
        "Changes": ", ".join(f"`{name}`" for name in sorted(found.edits)),
        "Works on a folder that is not loaded": "yes" if found.streams else "no",
        "Revision": str(found.revision),
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def _use(name: str, found: type[Any]) -> str:
    if _reads(found):
        model, asked, out = "model", recogniser_pictures.request(), "runs/forgot"
        concepts = str(list(recogniser_pictures.FORGOTTEN)).replace("'", '"')
        load = f'model = efface.load("{recogniser_pictures.MODEL}")'
    else:
        model, asked, out = "pipe", f"--concept {method_pictures.CONCEPT}", "runs/pistol"
        concepts, load = f'"{method_pictures.CONCEPT}"', 'pipe = efface.load("emoji")'
    chain = method_pictures.chain(name)
    return (
        "<!-- needs: minutes of computing with some methods -->\n\n"
        f"```\nefface erase {chain} {asked} --out {out}\n```\n\n"
        f'```python\n{load}\nresult = efface.erase({model}, {concepts}, method="{chain}")\n```'
    )


def _settings(entry: registry.Entry) -> str:
    if not entry.settings:
        return "None."
    rows = [
        f"| `{one.name}` | `{_type(entry, one)}` | {_default(one)} | {_cell(_markdown(one.doc))} |"
        for one in entry.settings
    ]
    head = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows])


def _type(entry: registry.Entry, setting: registry.Setting) -> str:
    """Gives a setting's type as written; the name of a list of choices becomes the choices."""
    named = getattr(import_module(entry.module), setting.type, None)
    if get_origin(named) is Literal:
        return _cell(" | ".join(map(repr, get_args(named))))
    return _cell(setting.type)


def _default(setting: registry.Setting) -> str:
    return "required" if setting.default is None else f"`{_cell(setting.default)}`"


def _presets(found: type[Any]) -> str:
    """Shows the settings in which at least one preset differs from the defaults."""
    presets = {"default": found(), **found.presets()}
    values = {
        field.name: [getattr(preset, field.name) for preset in presets.values()]
        for field in fields(found)
    }
    head = [_row(["setting", *presets]), "| --- |" + " --- |" * len(presets)]
    differing = {name: row for name, row in values.items() if any(one != row[0] for one in row)}
    rows = [
        _row([f"`{name}`", *(f"`{_cell(repr(one))}`" for one in row)])
        for name, row in differing.items()
    ]
    return "\n".join([*head, *rows])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(doc: str) -> str:
    """Turns a docstring's indented section into a titled one, and double backticks into single."""
    text = re.sub(r"^(\w[\w ]*):\n((?:    .*\n?|\n)+)", _section, doc, flags=re.MULTILINE)
    return text.replace("``", "`")


def _section(found: re.Match[str]) -> str:
    return f"**{found[1]}.**\n{textwrap.dedent(found[2])}"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|")
