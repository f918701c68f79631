"""Concepts of the robustness benchmark are added up, and only those of one plan."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.robustness import added_up


def _result(concept: str, *, trials: int = 4, **row: Any) -> dict[str, Any]:
    cell = {
        "method": "uce",
        "attack": "soft_prompt",
        "access": "gradients",
        "concept": concept,
        "verdict": "valid",
        "reasons": [],
        "failure_rate": [3, 4],
        **row,
    }
    plan = {"methods": ["uce"], "attacks": ["soft_prompt"], "concepts": [concept], "trials": trials}
    return {"plan": plan, "cells": [cell], "transfers": [["uce", "esd", "emoji", 1, 6]]}


def test_hits_and_transfers_of_concepts_are_added_up_and_what_has_no_verdict_is_not() -> None:
    broken = _result("pizza", verdict="inconclusive", reasons=["never erased"], failure_rate=None)
    added = added_up([_result("cat"), _result("neon", failure_rate=[0, 4]), broken])
    (cell,) = added.pooled
    assert cell.failure_rate is not None
    assert (cell.failure_rate.hits, cell.failure_rate.count) == (3, 8)
    (one,) = added.transfers
    assert one.estimate is not None
    assert (one.estimate.hits, one.estimate.count) == (3, 18)
    (alone,) = added_up([broken]).pooled
    assert (alone.verdict, alone.failure_rate) == ("inconclusive", None)


def test_results_of_different_plans_are_not_added_up() -> None:
    with pytest.raises(ValueError, match="different plans"):
        added_up([_result("cat"), _result("neon", trials=8)])
