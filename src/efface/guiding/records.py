"""Guides as text that records hold: written, read back, and in words."""

from __future__ import annotations

import json
from collections.abc import Sequence

from efface import registry
from efface.contracts import Guide
from efface.errors import BadRequest

__all__ = ["rebuilt", "recorded"]


def recorded(guides: Sequence[Guide]) -> str:
    """Writes guides with their settings and revisions as one line; empty for none."""
    if not guides:
        return ""
    rows = [[each.name, each.revision, registry.settings_of(each)] for each in guides]
    return json.dumps(rows, sort_keys=True)


def rebuilt(text: str) -> list[Guide]:
    """Makes the guides that a record holds.

    Raises:
        BadRequest: one is not known, or steers otherwise than when the record was written.
    """
    guides: list[Guide] = []
    for name, revision, settings in json.loads(text or "[]"):
        guide: Guide = registry.build("guides", name, **settings)
        if guide.revision != revision:
            raise BadRequest(
                f"{name} is at revision {guide.revision} and the record has {revision}: it steers "
                "otherwise now; draw anew"
            )
        guides.append(guide)
    return guides
