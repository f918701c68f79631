"""Reads the recipe of a run back from its record, also from records of older versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from efface import registry
from efface.concepts import request_from
from efface.errors import BadRequest
from efface.runs.recipe import (
    BESIDE,
    DebiasRecipe,
    EraseRecipe,
    ImportRecipe,
    LedgerEntry,
    LedgerRecipe,
    Recipe,
    RevokeRecipe,
    StagesRecipe,
    TransferRecipe,
    listed,
    usual_preset,
)

__all__ = ["recipe_from"]

_KINDS: dict[str, type[Recipe]] = {
    each.kind: each
    for each in (
        EraseRecipe,
        StagesRecipe,
        LedgerRecipe,
        ImportRecipe,
        TransferRecipe,
        RevokeRecipe,
        DebiasRecipe,
    )
}


def recipe_from(record: Mapping[str, Any]) -> Recipe:
    """Reads the recipe of a run from its record, also from one that an older version wrote.

    Args:
        record: the content of a ``run.json``, or a delta's provenance as plain values.

    Raises:
        KeyError, TypeError, BadRequest: the record holds no recipe, or is damaged.
    """
    values = {name: record[name] for name in BESIDE if name in record}
    values |= {"model": record.get("base_model", ""), **record.get("recipe", {})}
    if "kind" not in values:
        values = _tagged(record, values)
    found = _KINDS[values.pop("kind")]
    if found is LedgerRecipe:
        values["entries"] = tuple(LedgerEntry(**listed(each)) for each in values["entries"])
        values.setdefault("settings", record.get("settings", {}))
    if unknown := sorted(values.keys() - {each.name for each in fields(found)}):
        raise BadRequest(f"the recipe has '{unknown[0]}', which this efface does not know")
    plain: dict[str, Any] = {name: listed(value) for name, value in values.items()}
    return found(**{**plain, "request": request_from(values["request"])})


def _tagged(record: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Gives a record of before recipes had kinds its kind and fields."""
    both = {name: values[name] for name in ("model", "request")}
    method = values["method"]
    if record.get("made_on"):
        return {**both, "kind": "transfer", "method": method, "run": "", "delta": ""}
    if "entries" in (record.get("diagnostics") or {}) and method == "uce":
        settings = record["settings"]
        return {**both, "kind": "ledger", "ledger": "", "entries": (), "settings": settings}
    if method == "import":
        return {**both, "kind": "import", "file": record["settings"]["file"]}
    given = record.get("settings_given", ())
    settings = values.get(
        "settings", {n: record["settings"][n] for n in given if n in record["settings"]}
    )
    both |= {"seed": values["seed"]}
    if method == "debias":
        settings = dict(settings)
        judge, folder = settings.pop("judge"), settings.pop("judge_folder")
        own = {"judge": judge, "judge_folder": folder, "settings": settings}
        return {**both, "kind": "debias", **own}
    preset = values.get("preset", record.get("preset"))
    if "+" not in method:
        return {**both, "kind": "erase", "method": method, "preset": preset, "settings": settings}
    methods = method.split("+")
    stages = {}
    for name, stage in zip(registry.stage_names(methods), methods, strict=True):
        usual = preset or usual_preset(both["model"], stage)
        stages[name] = ({"preset": usual} if usual else {}) | settings.get(name, {})
    return {**both, "kind": "stages", "method": method, "settings": stages}
