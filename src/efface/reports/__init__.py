"""Numbers to tables, figures, one offline page and the erasure card."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efface.reports.tables import console_summary, console_table
    from efface.reports.writing import write_report

__all__ = ["console_summary", "console_table", "write_report"]


def __getattr__(name: str) -> object:
    """Loads the public names when they are first used."""
    if name in ("console_summary", "console_table"):
        from efface.reports import tables

        return getattr(tables, name)
    if name == "write_report":
        from efface.reports.writing import write_report

        return write_report
    raise AttributeError(f"efface.reports has no {name}")
