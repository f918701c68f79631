"""What exists: methods, searches, judges and more, found by file name and read, not imported."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

from efface.errors import BadRequest
from efface.plain_values import plain

__all__ = [
    "BUNDLED",
    "BUNDLED_JUDGES",
    "VISION",
    "Entry",
    "Kind",
    "Setting",
    "build",
    "bundled",
    "entries",
    "find",
    "list_methods",
    "load",
    "measured_preset",
    "measured_presets",
    "reads_pictures",
    "settings_of",
    "stage_names",
    "without_retired",
]

BUNDLED = {
    "emoji": "efface.bundled",
    "emoji-remix": "efface.bundled.remix",
    "emoji-reader": "efface.bundled.reader",
    "emoji-scenes": "efface.bundled.scenes",
}
"""Models that come with the package, by the module whose ``pipeline_folder()`` says where. A
``finish()`` of that module completes what the folder holds."""

BUNDLED_JUDGES = {
    "emoji": "the bundled judge of the bundled model, error rates known",
    "emoji-second": "another for it, of another build and seed",
    "emoji-remix": "the bundled judge of emoji-remix",
    "emoji-scenes": "the bundled judge of emoji-scenes",
}
"""Judges that come along, and what each is."""

VISION = {
    "icons-vit": "efface.bundled.icons",
    "icons-identities": "efface.bundled.icons",
    "icons-detector": "efface.bundled.icons",
}
"""Models that read pictures and come with the package; ``folder(name)`` of the module says where
one is, ``pictures(name, split)`` gives what it was trained and is tested on."""


Kind: TypeAlias = Literal["methods", "attacks", "guides", "searches", "judges", "metrics"]

_VERBS: dict[str, frozenset[str]] = {
    "methods": frozenset({"erase"}),
    "attacks": frozenset({"attempts"}),
    "guides": frozenset({"begin"}),
    "searches": frozenset({"search"}),
    "judges": frozenset({"presence"}),
    "metrics": frozenset({"scores", "distance"}),
}
_SINGULAR = {"searches": "search"}
_ROOT = Path(__file__).parent

RETIRED: dict[str, Any] = {"ema": 0.0, "patience": 0, "originals": "memory"}
"""Settings that are gone, each with the value at which it did nothing: files that hold it are read
as before."""
SAME_PRESETS = {("kernel_map", "emoji-many"): "emoji"}
"""Presets that are another one of the same method by now; commands and files still name them."""


@dataclass(frozen=True)
class Setting:
    """One field of a method, as written in its source."""

    name: str
    type: str
    default: str | None
    doc: str


@dataclass(frozen=True)
class Entry:
    """Something that can be chosen by name."""

    kind: Kind
    name: str
    summary: str
    """First line of the module's docstring."""
    module: str
    class_name: str
    settings: tuple[Setting, ...]
    doc: str
    """The class's docstring."""


def entries(kind: Kind) -> tuple[Entry, ...]:
    """Lists what exists of a kind, sorted by name; files without the kind's verb are helpers.

    Raises:
        BadRequest: a file defines two classes with the kind's verb, so its name is ambiguous.
    """
    folder = _ROOT / kind
    found = [_read(kind, f"efface.{kind}.{path.stem}", path) for path in folder.glob("*.py")]
    listed = {entry.name: entry for entry in found if entry is not None}
    for entry in _foreign(kind):
        listed.setdefault(entry.name, entry)
    return tuple(sorted(listed.values(), key=lambda entry: entry.name))


def list_methods() -> tuple[str, ...]:
    """Lists the names of all methods."""
    return tuple(entry.name for entry in entries("methods"))


def find(kind: Kind, name: str) -> Entry:
    """Finds one by name.

    Raises:
        BadRequest: there is none; the text suggests the nearest names.
    """
    known = {entry.name: entry for entry in entries(kind)}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    listed = ", ".join(known) or "none"
    raise BadRequest(
        f"there is no {_SINGULAR.get(kind, kind[:-1])} called '{name}'; {hint}known: {listed}"
    )


def load(kind: Kind, name: str) -> type[Any]:
    """Imports the class behind a name; only now the heavy libraries load.

    Raises:
        BadRequest: there is none of that name.
    """
    entry = find(kind, name)
    loaded: type[Any] = getattr(importlib.import_module(entry.module), entry.class_name)
    if not getattr(loaded, "name", name):
        loaded.name = name
    return loaded


def build(kind: Kind, name: str, *, preset: str | None = None, **settings: Any) -> Any:
    """Makes a method or judge: class defaults, then the preset, then ``settings``.

    Raises:
        BadRequest: an unknown name, preset or setting (with a suggestion), a value out of range,
            or a setting that is gone.
    """
    found = load(kind, name)
    base: dict[str, Any] = {}
    known = [each.name for each in fields(found) if each.init] if is_dataclass(found) else []
    given = without_retired({key: _tuples(value) for key, value in settings.items()}, known)
    if preset is not None:
        preset = plain("preset", preset, str)
        preset = SAME_PRESETS.get((name, preset), preset)
        presets = found.presets()
        if preset not in presets:
            raise BadRequest(_unknown(f"preset of {name}", preset, presets))
        base = _values(presets[preset])
    for key in given:
        if key not in known:
            raise BadRequest(_unknown(f"setting of {name}", key, known))
    hints = get_type_hints(found) if given else {}
    return found(**base | {key: plain(key, value, hints[key]) for key, value in given.items()})


def without_retired(settings: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Leaves out settings that are gone, so that files written before can be read.

    Args:
        settings: by name, as a file holds them.
        known: the settings that there are.

    Raises:
        BadRequest: one that is gone had an effect, which nothing gives any more.
    """
    for name, value in settings.items():
        if name not in known and name in RETIRED and value != RETIRED[name]:
            raise BadRequest(
                f"{name} is {value}, and this setting is gone: only {name} = {RETIRED[name]}, "
                "which did nothing, is still read; leave it out, or take an older efface"
            )
    return {key: value for key, value in settings.items() if key in known or key not in RETIRED}


def stage_names(methods: Sequence[str]) -> list[str]:
    """Names stages after their methods; the second of one method is ``esd-2``, and so on."""
    return [
        f"{name}-{methods[:place].count(name) + 1}" if name in methods[:place] else name
        for place, name in enumerate(methods)
    ]


def settings_of(method: Any) -> dict[str, Any]:
    """Gives all settings of a method as plain values that JSON can hold."""
    return asdict(method)


def _values(method: Any) -> dict[str, Any]:
    return {field.name: getattr(method, field.name) for field in fields(method)}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list | tuple) else value


def _unknown(what: str, name: str, known: Mapping[str, Any] | list[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no {what} called '{name}'; {hint}known: {', '.join(known) or 'none'}"


def _read(kind: Kind, module: str, path: Path, *, name: str | None = None) -> Entry | None:
    if path.stem.startswith("_"):
        return None
    return _parsed(kind, module, path, name, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _parsed(kind: Kind, module: str, path: Path, name: str | None, _written: int) -> Entry | None:
    """Reads a file once, until it is written anew."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [
        node for node in tree.body if isinstance(node, ast.ClassDef) and _has_verb(node, kind)
    ]
    if not classes:
        return None
    if len(classes) > 1:
        both = " and ".join(node.name for node in classes)
        raise BadRequest(f"{path.name} defines {both}; a file in {kind} defines exactly one")
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    found = classes[0]
    doc = ast.get_docstring(found) or ""
    settings = tuple(_settings(found, tree).values())
    return Entry(kind, name or path.stem, summary, module, found.name, settings, doc)


def _has_verb(node: ast.ClassDef, kind: Kind) -> bool:
    defined = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    return not node.name.startswith("_") and bool(defined & _VERBS[kind])


def _settings(node: ast.ClassDef, tree: ast.Module) -> dict[str, Setting]:
    """Reads annotated fields with the docstring below each; class variables are facts.

    Its own come first, then those that it inherits from its base classes.
    """
    found = {}
    for item, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        type_text = ast.unparse(item.annotation)
        if type_text.startswith("ClassVar"):
            continue
        default = None if item.value is None else ast.unparse(item.value)
        if (name := item.target.id).startswith("_"):
            continue
        found[name] = Setting(name, type_text, default, _text(following))
    for base in (each.id for each in node.bases if isinstance(each, ast.Name)):
        for name, setting in _inherited(base, tree).items():
            found.setdefault(name, setting)
    return found


def _inherited(name: str, tree: ast.Module) -> Mapping[str, Setting]:
    """Reads the settings of a base class from the file that holds it."""
    for item in tree.body:
        if isinstance(item, ast.ClassDef) and item.name == name:
            return _settings(item, tree)
        if not isinstance(item, ast.ImportFrom) or not str(item.module).startswith("efface."):
            continue
        if any(each.name == name for each in item.names):
            path = _ROOT.joinpath(*str(item.module).split(".")[1:]).with_suffix(".py")
            return _of_base(name, path)
    return {}


@cache
def _of_base(name: str, path: Path) -> Mapping[str, Setting]:
    """Reads the settings of a base class from a file of this package, once for all that have it."""
    return _inherited(name, ast.parse(path.read_text(encoding="utf-8")))


def _text(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return " ".join(str(node.value.value).split())
    return ""


@cache
def _points(kind: Kind, _places: tuple[str, ...]) -> tuple[importlib.metadata.EntryPoint, ...]:
    """Lists entry points; every installed package is asked, so once for each ``sys.path``."""
    return tuple(importlib.metadata.entry_points(group=f"efface.{kind}"))


def _foreign(kind: Kind) -> list[Entry]:
    """Reads other packages' entry points ``name = package.module`` without importing them."""
    found = []
    for point in _points(kind, tuple(sys.path)):
        top, *rest = point.module.split(".")
        spec = importlib.util.find_spec(top)
        if spec is None or spec.origin is None:
            continue
        path = Path(spec.origin)
        if rest:
            path = path.parent.joinpath(*rest).with_suffix(".py")
        if path.is_file() and (entry := _read(kind, point.module, path, name=point.name)):
            found.append(entry)
    return found


def bundled(name: str) -> Any:
    """Imports the module of a bundled model."""
    return importlib.import_module((BUNDLED | VISION)[name])


def reads_pictures(name: str | Path) -> bool:
    """Says whether a name or folder is of a model that reads pictures rather than drawing them."""
    folder = Path(name)
    alone = (folder / "config.json").is_file() and not (folder / "model_index.json").exists()
    return str(name) in VISION or alone


def measured_preset(name: str | None) -> str | None:
    """Names the preset of methods that was measured on a bundled model; None for other models."""
    return next(iter(measured_presets(name)), None)


def measured_presets(name: str | None) -> tuple[str, ...]:
    """Names them all: a model's own first, then those of its kind."""
    if name is None or name not in BUNDLED | VISION:
        return ()
    module = bundled(name)
    own = getattr(module, "PRESETS", {}).get(name)
    return (*([own] if own else []), str(module.PRESET))


assert set(get_args(Kind)) == set(_VERBS)
