"""From what was typed to a method with its settings: class default, preset, file, flag."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from efface import registry
from efface.cli.asking import Asking
from efface.cli.recipes import SUFFIX, read_recipe, read_toml
from efface.cli.shell import Repeated, parse, settings_from
from efface.concepts import ErasureRequest
from efface.errors import BadRequest
from efface.runs.recipe import EraseRecipe, StagesRecipe, usual_preset
from efface.runs.words import flags_of
from efface.workbench.models import BUNDLED

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Choice", "Choosing", "by_stage", "choose", "overview", "stage_of"]


Options = TypeVar("Options", bound="Choosing")


@dataclass(frozen=True, kw_only=True)
class Choosing(Asking):
    """What to erase, from which model, and how."""

    anchor: str | None = None
    """What prompts should give instead; by default the empty prompt."""
    images: Repeated = ()
    """A folder of pictures of the concept, or one picture, for methods that learn from them; repeat
    for several. Of several concepts, write CONCEPT=FOLDER."""
    images_hash: Repeated = ()
    """Refuse other pictures than those of this hash, as commands that are printed say; once for
    each place of pictures."""
    forget_data: Path | None = None
    """Labelled pictures of what is erased, for models that read pictures; by default those of its
    names among the retained data."""
    retain_data: Path | None = None
    """Labelled pictures of the rest, or of everything: a folder with a folder for each class, of
    the datasets library, of COCO or IDX files. Bundled models have their own."""
    preset: str | None = None
    """Named settings to start from; see the method's page."""
    settings: Path | None = None
    """TOML file with settings, or a preset's name; they replace those of the preset, flags replace
    them. Methods in turn take one table each."""


@dataclass(frozen=True)
class Choice:
    """The settings of a method, by where they come from."""

    name: str
    """The method's name; several are joined by ``+``."""
    method: Any
    """The method with all its settings; a tuple of them, where several run in turn."""
    preset: str | None
    given: Mapping[str, Any]
    """Settings that came from the TOML file or a flag; of methods in turn a table each, with its
    preset."""

    def recipe(
        self, model: str, request: ErasureRequest, seed: int, *, after: Path | None = None
    ) -> EraseRecipe | StagesRecipe:
        """Writes down what decides the delta."""
        both: dict[str, Any] = {"model": model, "request": request, "seed": seed}
        both |= {"after": "" if after is None else str(after)}
        if isinstance(self.method, tuple):
            return StagesRecipe(**both, method=self.name, settings=self.given)
        return EraseRecipe(**both, method=self.name, preset=self.preset, settings=self.given)


def choose(method: str, flags: list[str], base: type[Options]) -> tuple[Options, Choice]:
    """Reads flags for one method: class default, then preset, then TOML file, then flag.

    Args:
        method: its name; several joined by ``+``; or the path of a recipe, see `read_recipe`.
        flags: what was typed after it.
        base: the flags that the verb has besides the method's.

    Raises:
        BadRequest: an unknown method, preset, setting or flag, or a value out of range.
    """
    early = _early(flags)
    source = early["settings"]
    held = {} if source is None else read_toml(Path(source))
    if method.endswith(SUFFIX):
        if source is not None or early["preset"] is not None:
            raise BadRequest(f"{method} has the presets and settings of its stages; say them there")
        source = method
        method, held = read_recipe(Path(method))
    if "+" in method:
        return _several(method, held, str(source), flags, base)
    stage = stage_of(method, held, early, str(source))
    found = type(stage.method)
    both: type[Any] = make_dataclass(
        "EraseMethod",
        [("method", found, field(default=stage.method))],
        bases=(base,),
        frozen=True,
        kw_only=True,
    )
    summary = registry.find("methods", method).summary
    options = parse(
        both, flags, prog=f"efface {base.__name__.lower()} {method}", description=summary
    )
    names = [f.name for f in fields(found) if f.name in stage.given or _typed(f.name, flags)]
    chosen: Any = vars(options)["method"]
    given = {name: getattr(chosen, name) for name in names}
    return options, Choice(method, chosen, stage.preset, given)


def stage_of(
    name: str, table: Mapping[str, Any], early: Mapping[str, str | None], source: str
) -> Choice:
    """Builds one method with the settings of a table, which may name its preset too.

    Args:
        name: of the method.
        table: settings by name.
        early: the "model" that decides the usual preset, and a "preset" before all others.
        source: what errors call the table.

    Raises:
        BadRequest: there is no such method, preset or setting, or a value is not of its type.
    """
    found = registry.load("methods", name)
    if not hasattr(found, "erase"):
        raise BadRequest(f"{name} erases nothing by itself; see: efface list methods")
    values = {key.replace("-", "_"): value for key, value in table.items()}
    values = registry.without_retired(values, ["preset", *(each.name for each in fields(found))])
    own = values.pop("preset", None)
    usual = usual_preset(str(early["model"]), name) if own is None else str(own)
    preset = early["preset"] or usual
    start = registry.build("methods", name, preset=preset)
    flags = flags_of(values)
    if flags is None:
        raise BadRequest(f"{source} has a value that is not a setting: {values}")
    method = settings_from(found, flags, start, source=source)
    return Choice(name, method, preset, {key: getattr(method, key) for key in values})


def _several(
    names: str, tables: Mapping[str, Any], source: str, flags: list[str], base: type[Options]
) -> tuple[Options, Choice]:
    """Reads flags for methods in turn; settings are one table for each stage, or ``--esd.steps``.

    A stage's flags replace what its table says.
    """
    early = _early(flags)
    methods = names.split("+")
    stages = registry.stage_names(methods)
    for name, table in tables.items():
        if name not in stages or not isinstance(table, dict):
            raise BadRequest(
                f"{source} has '{name}', and methods in turn take one table each: "
                f"{', '.join(f'[{stage}]' for stage in stages)}"
            )
    common, own = by_stage(flags, stages)
    made = {}
    for method, stage in zip(methods, stages, strict=True):
        table, first = dict(tables.get(stage, {})), early
        if preset := _early(own[stage])["preset"]:
            first = {**early, "preset": preset}
        started = stage_of(method, table, first, f"{source}, stage {stage}")
        made[stage] = _with_flags(started, stage, own[stage])
    description = "Runs methods in turn, each on the model that the earlier ones gave."
    options = parse(
        base, common, prog=f"efface {base.__name__.lower()} {names}", description=description
    )
    given = {
        stage: {**({} if one.preset is None else {"preset": one.preset}), **one.given}
        for stage, one in made.items()
    }
    built = tuple(stage.method for stage in made.values())
    return options, Choice(names, built, early["preset"], given)


def by_stage(flags: list[str], stages: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Sorts flags such as ``--esd-2.steps 3`` to their stages; the rest are for all."""
    common: list[str] = []
    own: dict[str, list[str]] = {stage: [] for stage in stages}
    now = common
    for word in flags:
        if word.startswith("--"):
            stage, dot, name = word.removeprefix("--").partition(".")
            now = own[stage] if dot and stage in own else common
            word = f"--{name}" if now is not common else word
        now.append(word)
    return common, own


def _with_flags(stage: Choice, name: str, own: list[str]) -> Choice:
    """Lets a stage's own flags replace its settings."""
    reader = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument("--preset", nargs="?")
    flags = reader.parse_known_args(own)[1]
    if not flags:
        return stage
    method = settings_from(type(stage.method), flags, stage.method, source=f"stage {name}")
    names = [f.name for f in fields(method) if f.name in stage.given or _typed(f.name, flags)]
    return replace(stage, method=method, given={each: getattr(method, each) for each in names})


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
            "Several in turn: efface erase uce+esd ..., with flags such as --esd.steps 100, or "
            "settings in a file's [uce] and [esd]; or efface erase recipe.toml ..., with a "
            "[[stage]] table for each"
        )
    return 0


def _early(flags: list[str]) -> dict[str, str | None]:
    """Reads the flags that decide the defaults which the full help shows."""
    reader = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument("--preset", nargs="?")
    reader.add_argument("--settings", nargs="?")
    reader.add_argument("--model", nargs="?", default=BUNDLED)
    return dict(vars(reader.parse_known_args(flags)[0]))


def _typed(name: str, flags: list[str]) -> bool:
    flag = name.replace("_", "-")
    spelled = {f"--{flag}", f"--no-{flag}", f"--{name}", f"--no-{name}"}
    return any(typed.partition("=")[0] in spelled for typed in flags)
