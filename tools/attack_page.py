"""The page of attacks: what each needs, where it comes from, and its settings."""

from __future__ import annotations

from efface import registry
from efface.reports.wording import ACCESS

__all__ = ["page", "section"]

HEAD = """# Attacks

Every way of bringing an erased concept back that `efface attack` tries, who can use it, and its
settings. [Robustness](robustness.md) says how success is counted and what came of them. Generated
by `make docs` from the attacks' own files.
"""


def page() -> str:
    """Gives the whole page."""
    entries = registry.entries("attacks")
    order = list(ACCESS)
    found = {entry.name: registry.load("attacks", entry.name) for entry in entries}
    entries = tuple(sorted(entries, key=lambda entry: order.index(found[entry.name].access)))
    needs = {name: ACCESS[attack.access] for name, attack in found.items()}
    rows = [f"| [`{e.name}`](#{e.name}) | {needs[e.name]} | {e.summary} |" for e in entries]
    table = "\n".join(["| attack | needs | what it does |", "| --- | --- | --- |", *rows])
    return "\n".join([HEAD, table, "", *(section(entry, found[entry.name]) for entry in entries)])


def section(entry: registry.Entry, attack: type) -> str:
    """Gives one attack's part, or that of another kind with a paper and settings."""
    parts = [f"## {entry.name}", _prose(entry.doc)]
    paper = attack.paper
    if paper is not None:
        link = f"https://arxiv.org/abs/{paper.arxiv}"
        parts.append(f"Paper: [{paper.title}]({link}) ({paper.year}).")
    if entry.settings:
        rows = [f"| `{one.name}` | `{one.default}` | {one.doc} |" for one in entry.settings]
        parts.append("\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *rows]))
    return "\n\n".join(parts) + "\n"


def _prose(doc: str) -> str:
    """Writes a docstring as Markdown, without the indent of its later lines."""
    lines = [line.strip() for line in doc.splitlines()]
    text = "\n".join(lines).strip().replace("``", "`")
    return text.replace("Differs from the paper:\n", "Differs from the paper:\n\n")
