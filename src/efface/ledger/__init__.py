"""Requests to erase as an order-free ledger: add, revoke, merge, replay on another base."""

from __future__ import annotations

from efface.ledger.book import Ledger
from efface.ledger.entries import Entry, Revocation

__all__ = ["Entry", "Ledger", "Revocation"]
