"""What a run says of itself in the header of an exported file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efface.deltas.delta import Delta
from efface.exchange.cards import cards_of
from efface.exchange.headers import Description
from efface.files import parse_json
from efface.hosts.licences import base_card

__all__ = ["THUMBNAIL", "described_run", "title_of"]

THUMBNAIL = "thumbnail.jpg"
"""Pictures before and after, in the folder of a run that was measured."""


def described_run(
    folder: Path,
    delta: Delta,
    record: Mapping[str, Any],
    *,
    name: str,
    model: str,
    author: str = "",
    licence: str = "",
) -> Description:
    """Gathers title, date, licence, pictures and what was measured.

    The date is that of the run, so that exporting it twice gives the same file. Pictures and the
    summary are taken where the run's cards are of the delta that it holds.

    Args:
        folder: the run's.
        delta: what is exported.
        record: the content of ``run.json``.
        name: of the file.
        model: the base, for its licence.
        author: who made the edit; nobody is named unasked.
        licence: of the edit; by default that of the base.
    """
    held = str(record.get("delta", delta.id))
    cards = {card.name: card for card in cards_of(folder, held)[0]}
    base = base_card(model)
    parts = delta.provenance.parts
    return Description(
        title=title_of(delta),
        name=name,
        date=str(record.get("made", "")),
        author=author,
        licence=licence or base.title or "that of the base model",
        description=_summary(cards.get("card.json")),
        tags=("concept-erasure", "efface", delta.provenance.method),
        merged_from=tuple(f"efface delta {part}" for part in parts),
        thumbnail=_data_uri(folder / THUMBNAIL) if cards else "",
    )


def title_of(delta: Delta) -> str:
    """Names an edit by what it is to erase and from what: ``pistol erased from emoji by uce``."""
    made = delta.provenance
    erasures = made.request.get("erasures", ())
    what = ", ".join(str(each["concept"]["name"]) for each in erasures) or "an edit"
    base = Path(made.base_model).name
    return f"{what} erased{f' from {base}' if base else ''} by {made.method}"


def _summary(card: Path | None) -> str:
    if card is None:
        return "Not measured."
    values = parse_json(card.read_bytes(), str(card))
    return f"{values.get('summary', '')} Verdict: {values.get('verdict', '')}."


def _data_uri(file: Path) -> str:
    if not file.is_file():
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}"
