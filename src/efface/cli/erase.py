"""``efface erase METHOD``: the method's fields are flags; the result is a run folder."""

from __future__ import annotations

import tomllib
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from efface import registry
from efface.cli import measuring, runs, smoke
from efface.cli.drawing import sampling_for
from efface.cli.folder import RunFolder, locked
from efface.cli.hosts import BUNDLED, Wanted, host_for, request_for
from efface.cli.previews import checkpoint_of, previewing
from efface.cli.shell import Repeated, Shared, parse, settings_from
from efface.concepts import ConceptKind
from efface.errors import BadRequest

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.core.deltas import Delta

__all__ = ["Choice", "Choosing", "Erase", "choose", "overview", "run"]


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


@dataclass(frozen=True, kw_only=True)
class Erase(Choosing):
    """What to erase, from which model, and where to put the result."""

    out: Path
    """Folder of the run: delta, pictures, report and card."""
    seed: int = 0
    """Seed of everything the method draws."""
    cache: Path | None = None
    """Folder that remembers keep sets: the next erasure with the same text encoder and keep set
    does not encode it again. The result is the same bit for bit."""
    evaluate: bool = True
    """Measure the result, where a suite for this model exists."""
    smoke: bool = False
    """Keep a few pictures for efface verify, of the bundled model always; others are loaded whole
    for it, where otherwise a folder's text encoder and the weights that read text are enough."""
    resume: bool = False
    """Go on from the checkpoint that an interrupted run of the same command left; of methods that
    train. Steps and step size may be changed."""
    preview: int = 0
    """Every so many steps draw a picture with what was trained so far, always with the same prompt
    and seed, into the run's previews; 0: never."""
    size: str = "standard"
    """How many pictures to measure with; see efface evaluate."""
    overwrite: bool = False
    """Replace the run that the folder holds."""


@dataclass(frozen=True)
class Choice:
    """The settings of a method, by where they come from."""

    method: Any
    """The method with all its settings."""
    preset: str | None
    given: Mapping[str, Any]
    """Settings that came from the TOML file or a flag."""


def run(arguments: list[str], output: Output) -> int:
    """Erases, saves, and measures unless told not to."""
    if not arguments or arguments[0].startswith("-"):
        return overview("erase", arguments, output)
    method, *flags = arguments
    options, choice = choose(method, flags, Erase)
    wanted = Wanted(
        concepts=options.concept, kind=options.kind, anchor=options.anchor, keep=options.keep
    )
    request = request_for(options.model, wanted)
    recipe = runs.Recipe(
        model=options.model,
        method=method,
        preset=choice.preset,
        settings=choice.given,
        seed=options.seed,
        request=request,
    )
    plan = measuring.Plan(size=options.size)
    reason = measuring.unmeasurable(recipe) if options.evaluate else "not measured"
    if reason is None:
        measuring.suite_of(plan, recipe)
    with locked(options.out) as folder:
        _refuse_to_replace(options)
        pipe = _fill(folder, recipe, options, output)
        if reason is None:
            return measuring.measure(folder, pipe, plan, output)
    output.say(f"{reason}; to measure it later, see: efface evaluate --help")
    delta = runs.read_delta(options.out).id
    output.result({"run": str(options.out), "delta": delta, "verdict": None})
    return 0


def _fill(folder: RunFolder, recipe: runs.Recipe, options: Erase, output: Output) -> Any:
    """Writes the run; gives the model."""
    pictures = options.smoke or (options.evaluate and options.model == BUNDLED)
    pictures = pictures or options.preview > 0
    pipe = host_for(options.model, recipe.method, output, pictures=pictures)
    place = checkpoint_of(options.out)
    output.after_interrupt = (
        f"if training had begun, its state is in {place}: give the same command with --resume"
    )
    result = runs.erase(
        pipe,
        recipe,
        output,
        watch=previewing(folder.path, pipe, recipe, options.preview) if options.preview else None,
        cache=options.cache,
        checkpoint=place,
        resume=options.resume,
    )
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()
    with folder.staged() as staging:
        result.save(staging)
        runs.extend_record(staging, recipe)
        measuring.forget(folder.path)
    output.after_interrupt = f"the delta is saved; go on with: efface evaluate {options.out}"
    output.say(f"erased in {result.seconds:.1f} s: {options.out / runs.DELTA}")
    output.say(*_cache_lines(result.diagnostics.get("keep_cache"), options.cache))
    if pictures:
        _keep_pictures(folder, pipe, result.delta, recipe, output)
    return pipe


def _cache_lines(told: Mapping[str, Any] | None, folder: Path | None) -> list[str]:
    """Says how many kept prompts came from the cache, and what was wrong with its files."""
    if told is None:
        return []
    every = told["found"] + told["encoded"]
    if not every:
        return [f"nothing was cached in {folder}: no --keep was given"]
    return [*told["notes"], f"{told['found']} of {every} kept prompts came from {folder}"]


def _keep_pictures(
    folder: RunFolder, pipe: Any, delta: Delta, recipe: runs.Recipe, output: Output
) -> None:
    shots = smoke.shots_for(recipe.request)
    sampling = sampling_for(recipe.model, steps=smoke.STEPS)
    with folder.staged() as staging, output.progress("drawing the smoke set") as monitor:
        smoke.write_smoke(staging, smoke.drawn(pipe, delta, shots, sampling, monitor), sampling)


def choose(method: str, flags: list[str], base: type[Options]) -> tuple[Options, Choice]:
    """Reads flags for one method: class default, then preset, then TOML file, then flag.

    Args:
        method: its name.
        flags: what was typed after it.
        base: the flags that the verb has besides the method's.

    Raises:
        BadRequest: an unknown method, preset, setting or flag, or a value out of range.
    """
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


def _refuse_to_replace(options: Erase) -> None:
    if (options.out / runs.RECORD).exists() and not options.overwrite:
        raise BadRequest(
            f"{options.out} already holds a run; give another --out, or --overwrite to replace it"
        )
