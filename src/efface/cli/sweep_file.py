"""A sweep's TOML file: methods, settings and grids, concepts and seeds; nothing unknown is read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface import registry
from efface.cli.choosing import stage_of
from efface.cli.recipes import read_toml
from efface.errors import BadRequest, EffaceError

if TYPE_CHECKING:
    from efface.evaluation.sweeps import Sweep, Variant

__all__ = ["KEYS", "read_sweep"]

KEYS: dict[str, type | tuple[type, type]] = {
    "methods": (list, str),
    "concepts": (list, str),
    "seeds": (list, int),
    "keep": (list, str),
    "model": str,
    "kind": str,
    "size": str,
    "judge": str,
    "judge_folder": str,
    "batch": int,
    "measure": bool,
    "deltas": bool,
    "anchors": dict,
    "settings": dict,
    "grid": dict,
}
"""What a file may have, with the type; of lists that of the entries."""
_NAMES: dict[Any, str] = {str: "a text", int: "a whole number", bool: "true or false"}
_NAMES |= {dict: "a table", (list, str): "a list of texts", (list, int): "a list of whole numbers"}


def read_sweep(path: Path) -> Sweep:
    """Reads a file whole, and checks it before any work.

    Raises:
        BadRequest: it is not such a file; an unknown key, method, preset or setting, the text
            suggests one; or a value of another type.
    """
    from efface.evaluation.sweep_jobs import Measuring
    from efface.evaluation.sweeps import Sweep

    held = read_toml(path, "sweep")
    _check_keys(held, KEYS, str(path))
    for name, value in held.items():
        if not _is(value, KEYS[name]):
            raise BadRequest(f"{path}: {name} is {value!r}; it is {_NAMES[KEYS[name]]}")
    if lacking := [name for name in ("methods", "concepts") if not held.get(name)]:
        raise BadRequest(f'{path} names no {lacking[0]}; write a line like: {lacking[0]} = ["..."]')
    _check_keys(held.get("anchors", {}), held["concepts"], f"{path}, [anchors]")
    measuring = _given(held, "size", "judge", "judge_folder", "batch")
    if not held.get("measure", True) and measuring:
        raise BadRequest(
            f"{path}: measure is false and {', '.join(measuring)} says how; leave one of them out"
        )
    made = _given(held, "model", "kind", "anchors", "deltas")
    made |= {name: tuple(held[name]) for name in ("concepts", "seeds", "keep") if name in held}
    made["variants"] = tuple(_variants(held, str(path)))
    made["measuring"] = Measuring(**measuring) if held.get("measure", True) else None
    return Sweep(**made)


def _given(held: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: held[name] for name in names if name in held}


def _is(value: Any, kind: Any) -> bool:
    """Tells a value's type; true and false are no numbers here."""
    if isinstance(kind, tuple):
        return isinstance(value, list) and all(_is(one, kind[1]) for one in value)
    return type(value) is kind


def _check_keys(held: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuses a key that is not known, with the nearest.

    Raises:
        BadRequest: naming it.
    """
    known = list(known)
    for name in held:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise BadRequest(f"{where} has '{name}'; {hint}known: {', '.join(known)}")


def _variants(held: Mapping[str, Any], path: str) -> Iterator[Variant]:
    """Crosses each method's settings with its grid.

    Raises:
        BadRequest: see `read_sweep`.
    """
    methods, model = held["methods"], held.get("model", "emoji")
    for name in methods:
        for stage in name.split("+"):
            registry.find("methods", stage)
    fixed, grids = held.get("settings", {}), held.get("grid", {})
    _check_keys(fixed, methods, f"{path}, [settings]")
    _check_keys(grids, methods, f"{path}, [grid]")
    for name in methods:
        where = f"{path}, {name}"
        for table in (fixed.get(name, {}), grids.get(name, {})):
            if not isinstance(table, dict):
                raise BadRequest(f"{where}: {table!r} is no table of settings")
        for chosen in _crossed(grids.get(name, {}), where):
            yield _variant(name, _merged(fixed.get(name, {}), chosen), model, where)


def _crossed(grid: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Takes one value of each list in turn; of methods in turn, lists lie in their tables.

    Raises:
        BadRequest: a setting has no list of values.
    """
    axes: list[list[dict[str, Any]]] = []
    for name, values in grid.items():
        if isinstance(values, dict):
            axes.append([{name: one} for one in _crossed(values, where)])
        elif isinstance(values, list) and values:
            axes.append([{name: one} for one in values])
        else:
            raise BadRequest(
                f"{where}: {name} = {values!r} in [grid] is no list of values to try; write "
                f"{name} = [...], or put it under [settings]"
            )
    for chosen in product(*axes):
        yield {name: value for each in chosen for name, value in each.items()}


def _merged(fixed: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Lets a grid's values replace fixed ones, stage by stage."""
    made = dict(fixed)
    for name, value in chosen.items():
        held = made.get(name)
        if isinstance(value, dict) and isinstance(held, dict):
            value = _merged(held, value)
        made[name] = value
    return made


def _variant(name: str, table: Mapping[str, Any], model: str, where: str) -> Variant:
    """Reads settings as the method has them.

    Raises:
        BadRequest: see `read_sweep`.
    """
    from efface.evaluation.sweeps import Variant

    if "+" not in name:
        return Variant(method=name, settings=_read(name, table, model, where))
    methods = name.split("+")
    stages = registry.stage_names(methods)
    _check_keys(table, stages, where)
    return Variant(
        method=name,
        settings={
            stage: _read(method, table.get(stage, {}), model, f"{where}, {stage}")
            for method, stage in zip(methods, stages, strict=True)
        },
    )


def _read(method: str, table: Any, model: str, where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise BadRequest(f"{where} is {table!r}; methods in turn take a table each")
    try:
        found = stage_of(method, table, {"model": model, "preset": None}, where)
    except EffaceError as error:
        text = str(error)
        raise BadRequest(text if text.startswith(where) else f"{where}: {text}") from None
    preset = {} if found.preset is None else {"preset": found.preset}
    return {**preset, **found.given}
