"""From what was typed to a method with its settings: class default, preset, file, flag."""

from __future__ import annotations

import tomllib
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from efface import registry
from efface.cli.hosts import BUNDLED
from efface.cli.shell import Repeated, Shared, parse, settings_from
from efface.concepts import ConceptKind
from efface.errors import BadRequest

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Choice", "Choosing", "choose", "overview"]


Options = TypeVar("Options", bound="Choosing")


@dataclass(frozen=True, kw_only=True)
class Choosing(Shared):
    """What to erase and from which model."""

    concept: Repeated = ()
    """What to erase; repeat for several at once."""
    model: str = BUNDLED
    """The bundled model, a diffusers folder, or a hub id."""
    kind: ConceptKind | None = None
    """What the names are; by default an object, or what the bundled model knows the word as."""
    anchor: str | None = None
    """What prompts should give instead; by default the empty prompt."""
    keep: Repeated = ()
    """What must stay; repeat for several. The bundled model has a default set."""
    preset: str | None = None
    """Named settings to start from; see the method's page."""
    settings: Path | None = None
    """TOML file with settings; they replace those of the preset, flags replace them."""


@dataclass(frozen=True)
class Choice:
    """The settings of a method, by where they come from."""

    method: Any
    """The method with all its settings; a tuple of them, where several run in turn."""
    preset: str | None
    given: Mapping[str, Any]
    """Settings that came from the TOML file or a flag."""


def choose(method: str, flags: list[str], base: type[Options]) -> tuple[Options, Choice]:
    """Reads flags for one method: class default, then preset, then TOML file, then flag.

    Args:
        method: its name.
        flags: what was typed after it.
        base: the flags that the verb has besides the method's.

    Raises:
        BadRequest: an unknown method, preset, setting or flag, or a value out of range.
    """
    if "+" in method:
        return _several(method, flags, base)
    found = registry.load("methods", method)
    if not hasattr(found, "erase"):
        raise BadRequest(f"{method} erases nothing by itself; see: efface list methods")
    early = _early(flags)
    preset = early["preset"] or _default_preset(found, early["model"])
    start = registry.build("methods", method, preset=preset)
    from_file: dict[str, Any] = {}
    if (path := early["settings"]) is not None:
        from_file = _read_toml(Path(path))
        start = settings_from(found, _as_flags(from_file), start, source=path)
    both: type[Any] = make_dataclass(
        "EraseMethod",
        [("method", found, field(default=start))],
        bases=(base,),
        frozen=True,
        kw_only=True,
    )
    summary = registry.find("methods", method).summary
    options = parse(
        both, flags, prog=f"efface {base.__name__.lower()} {method}", description=summary
    )
    set_here = [f.name for f in fields(found) if f.name in from_file or _typed(f.name, flags)]
    chosen: Any = vars(options)["method"]
    return options, Choice(chosen, preset, {name: getattr(chosen, name) for name in set_here})


def _several(names: str, flags: list[str], base: type[Options]) -> tuple[Options, Choice]:
    """Reads flags for methods in turn; their settings are tables of the TOML file."""
    early = _early(flags)
    tables = {} if early["settings"] is None else _read_toml(Path(early["settings"]))
    stages = names.split("+")
    for name, table in tables.items():
        if name not in stages or not isinstance(table, dict):
            raise BadRequest(
                f"{early['settings']} has '{name}', and methods in turn take one table each: "
                f"{', '.join(f'[{stage}]' for stage in stages)}"
            )
    made = []
    for stage in stages:
        found = registry.load("methods", stage)
        if not hasattr(found, "erase"):
            raise BadRequest(f"{stage} erases nothing by itself; see: efface list methods")
        preset = early["preset"] or _default_preset(found, early["model"])
        made.append(registry.build("methods", stage, preset=preset, **tables.get(stage, {})))
    description = "Runs methods in turn, each on the model that the earlier ones gave."
    options = parse(
        base, flags, prog=f"efface {base.__name__.lower()} {names}", description=description
    )
    return options, Choice(tuple(made), early["preset"], tables)


def overview(verb: str, arguments: list[str], output: Output) -> int:
    """Prints the methods that a verb takes as its second word.

    Raises:
        BadRequest: neither a method nor help was asked for.
    """
    if not arguments or arguments[0] not in ("-h", "--help"):
        raise BadRequest(f"name a method first: efface {verb} METHOD; see: efface list methods")
    place = "--out FOLDER" if verb == "erase" else "--model FOLDER"
    output.say(f"usage: efface {verb} METHOD --concept NAME {place} ...\n")
    for entry in registry.entries("methods"):
        output.say(f"  {entry.name:<12} {entry.summary}")
    output.say(f"\nSettings of one method: efface {verb} METHOD --help")
    if verb == "erase":
        output.say(
            "Several in turn: efface erase uce+esd ..., settings in a file's [uce] and [esd]"
        )
    return 0


def _early(flags: list[str]) -> dict[str, str | None]:
    """Reads the flags that decide the defaults which the full help shows."""
    reader = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument("--preset", nargs="?")
    reader.add_argument("--settings", nargs="?")
    reader.add_argument("--model", nargs="?", default=BUNDLED)
    return dict(vars(reader.parse_known_args(flags)[0]))


def _default_preset(found: type[Any], model: str | None) -> str | None:
    return model if model in found.presets() else None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadRequest(f"there is no settings file {path}; check --settings") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(
            f"{path} is not a TOML file: {error}; write lines like: ridge = 0.1"
        ) from None


def _as_flags(values: Mapping[str, Any]) -> list[str]:
    """Writes TOML values as the flags they stand for, so that one parser checks both."""
    flags: list[str] = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list):
            flags += [f"--{flag}", *map(str, value)]
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def _typed(name: str, flags: list[str]) -> bool:
    flag = name.replace("_", "-")
    spelled = {f"--{flag}", f"--no-{flag}", f"--{name}", f"--no-{name}"}
    return any(typed.partition("=")[0] in spelled for typed in flags)
