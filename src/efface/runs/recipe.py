"""How a run came about: one record that builds its method, writes its command and is stored."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from efface import registry
from efface.concepts import ErasureRequest, described
from efface.contracts import Eraser
from efface.errors import BadRequest
from efface.runs.words import flag, flags_of, words_of

__all__ = [
    "BESIDE",
    "PLACING",
    "DebiasRecipe",
    "EraseRecipe",
    "ImportRecipe",
    "LedgerEntry",
    "LedgerRecipe",
    "Recipe",
    "RevokeRecipe",
    "StagesRecipe",
    "TransferRecipe",
    "listed",
    "usual_preset",
]

AGAIN = "runs/again"
"""Where commands on cards and pages write to."""
PLACING = ("device", "dtype", "config")
"""Fields that say where a model ran and how it was read, where that was asked for."""
_UNSAID: dict[str, Any] = {
    "pictures": {},
    "after": "",
    "delta_scale": 1.0,
    **dict.fromkeys(PLACING, ""),
}
"""Fields that records leave out where they say nothing."""
BESIDE = ("method", "request", "seed")
"""What provenance says itself, so that its record of the recipe need not."""


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """Everything that decides a delta; each kind of run has its own."""

    kind: ClassVar[str]
    model: str
    """The base, as it was named: a bundled model, a folder or a hub id."""
    request: ErasureRequest
    method: str
    """What the delta's provenance has as its method."""
    seed: int = 0
    pictures: Mapping[str, str] = field(default_factory=dict)
    """Hashes of the pictures that the request names, by their place; see `efface.runs.given`."""
    after: str = ""
    """Folder of the run that this one was made on top of; empty: made on the bare base."""
    device: str = ""
    """Where the model was asked to run; empty: the best device that there is."""
    dtype: str = ""
    """What its networks were asked to compute in; empty: float32."""
    config: str = ""
    """Folder with the configs of a model in a single file; empty: none was given."""

    @abstractmethod
    def words(self) -> list[str] | None:
        """Lists what is typed after ``efface``, without ``--out``; None where no words say it."""

    def command(self, out: str = AGAIN) -> str:
        """Writes the command that is read back as this recipe, or else the one that repeats it."""
        words = self.words() if self.model else None
        asked = [word for name in PLACING if (v := getattr(self, name)) for word in flag(name, v)]
        return shlex.join(["efface", *(words or ("rerun", "run.json")), *asked, "--out", out])

    def written(self) -> dict[str, Any]:
        """Writes the recipe as plain values for ``run.json``; `recipe_from` reads them."""
        plain = {each.name: _plain(getattr(self, each.name)) for each in fields(self)}
        for name, usual in _UNSAID.items():
            if name in plain and plain[name] == usual:
                del plain[name]
        return {"kind": self.kind, **plain}

    def noted(self) -> dict[str, Any]:
        """Writes what provenance does not say beside it, for a delta's header: no places."""
        beside = (*BESIDE, "pictures")
        places = (*self._places(), "device", "config")
        left_out = (*beside, *places)
        return {name: value for name, value in self.written().items() if name not in left_out}

    def reads(self) -> list[str]:
        """Lists what it reads beside the model: a file, a run or a ledger."""
        places = [name for name in self._places() if name in ("file", "run", "ledger", "after")]
        return [getattr(self, name) for name in places if getattr(self, name)]

    def _places(self) -> tuple[str, ...]:
        """Names the fields that are paths of one machine."""
        return ("model", "after")

    def _asked(self) -> list[str] | None:
        """Writes model and request as flags."""
        words = words_of(self.request, self.model)
        if words is None:
            return None
        hashes = [word for each in self.pictures.values() for word in flag("images-hash", each)]
        after = flag("after", self.after) if self.after else []
        return [*flag("model", self.model), *words.flags(), *hashes, *after]


@dataclass(frozen=True, kw_only=True)
class EraseRecipe(Recipe):
    """One method with its settings."""

    kind: ClassVar[str] = "erase"
    preset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Those that were given; the rest are the preset's or the class's."""
    delta_scale: float = 1.0
    """How much of what the method makes is the run's delta."""

    @classmethod
    def of(
        cls, method: Eraser[Any], *, model: str, request: ErasureRequest, seed: int
    ) -> EraseRecipe:
        """Describes a method that was built already by how it differs from what is usual."""
        known = {entry.name for entry in registry.entries("methods")}
        usual = usual_preset(model, method.name) if method.name in known else None
        start = type(method).presets()[usual] if usual else type(method)()
        settings = _differing(vars(method), vars(start))
        both: dict[str, Any] = {"model": model, "request": request, "seed": seed}
        return cls(**both, method=method.name, preset=usual, settings=settings)

    def build(self) -> Eraser[Any]:
        """Makes the method.

        Raises:
            BadRequest: an unknown method, preset or setting, a value out of range, or a method that
                does not change weights.
        """
        made = registry.build("methods", self.method, preset=self.preset, **self.settings)
        if not isinstance(made, Eraser):
            raise BadRequest(f"{self.method} does not erase by changing weights; choose an eraser")
        return made

    def words(self) -> list[str] | None:
        """See `Recipe.words`."""
        asked, settings = self._asked(), flags_of(self.settings)
        if asked is None or settings is None:
            return None
        preset = [] if self.preset is None else flag("preset", self.preset)
        end = [*_scale(self.delta_scale), *flag("seed", self.seed)]
        return ["erase", self.method, *asked, *preset, *settings, *end]

    def restated(self, settings: Mapping[str, Any]) -> EraseRecipe:
        """Gives a recipe with all settings as a record has them, whatever the preset says by now.

        Raises:
            BadRequest: there is no such method or setting.
        """
        presets = registry.load("methods", self.method).presets()
        preset = self.preset if self.preset in presets else None
        now = vars(registry.build("methods", self.method, preset=preset))
        kept = {name: value for name, value in self.settings.items() if name in settings}
        settings = {name: listed(value) for name, value in settings.items()}
        given = kept | _differing(settings, {**now, **kept})
        return EraseRecipe(**{**vars(self), "preset": preset, "settings": given})


@dataclass(frozen=True, kw_only=True)
class StagesRecipe(Recipe):
    """Methods in turn, each with its settings."""

    kind: ClassVar[str] = "stages"
    settings: Mapping[str, Mapping[str, Any]]
    """By the names of stages; a stage's preset is among them."""
    delta_scale: float = 1.0
    """How much of what the methods make is the run's delta."""

    @property
    def parts(self) -> dict[str, EraseRecipe]:
        """The recipe of each stage, by its name."""
        methods = self.method.split("+")
        stages = dict(zip(registry.stage_names(methods), methods, strict=True))
        return {name: self._part(name, method) for name, method in stages.items()}

    def _part(self, name: str, method: str) -> EraseRecipe:
        given = dict(self.settings.get(name, {}))
        preset = given.pop("preset", None)
        both: dict[str, Any] = {"model": self.model, "request": self.request, "seed": self.seed}
        return EraseRecipe(**both, method=method, preset=preset, settings=given)

    @classmethod
    def joined(cls, parts: list[EraseRecipe]) -> StagesRecipe:
        """Makes one recipe of stages that share model, request and seed."""
        methods = [part.method for part in parts]
        names = registry.stage_names(methods)
        settings = {name: _with_preset(part) for name, part in zip(names, parts, strict=True)}
        first = parts[0]
        both: dict[str, Any] = {"model": first.model, "request": first.request, "seed": first.seed}
        return cls(**both, method="+".join(methods), settings=settings)

    def words(self) -> list[str] | None:
        """See `Recipe.words`."""
        asked = self._asked()
        stages = [flags_of(table, stage=name) for name, table in self.settings.items()]
        if asked is None or None in stages:
            return None
        given = [word for words in stages for word in words or ()]
        end = [*_scale(self.delta_scale), *flag("seed", self.seed)]
        return ["erase", self.method, *asked, *given, *end]

    def restated(self, settings: Mapping[str, Any]) -> StagesRecipe:
        """See `EraseRecipe.restated`."""
        parts = self.parts.items()
        made = self.joined([part.restated(settings.get(name, {})) for name, part in parts])
        return replace(self, settings=made.settings)


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One entry of a ledger in a solve: its weight, and which of the request's erasures are its."""

    id: str
    weight: float
    erasures: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LedgerRecipe(Recipe):
    """All active entries of a ledger, solved together."""

    kind: ClassVar[str] = "ledger"
    method: str = "uce"
    ledger: str = ""
    """Its folder; repeating the run does not need it, since the request says what it held."""
    entries: tuple[LedgerEntry, ...]
    """In the order of the request; empty in records of before, which did not write them."""
    settings: Mapping[str, Any]
    """All settings of UCE."""

    def build(self) -> Eraser[Any]:
        """Makes the method that solves."""
        made: Eraser[Any] = registry.build("methods", self.method, **self.settings)
        return made

    def words(self) -> list[str] | None:
        """See `Recipe.words`."""
        return ["ledger", "erase", self.ledger, *flag("model", self.model)] if self.ledger else None

    def _places(self) -> tuple[str, ...]:
        return ("model", "ledger", "settings")


@dataclass(frozen=True, kw_only=True)
class ImportRecipe(Recipe):
    """Another tool's file, read as a delta."""

    kind: ClassVar[str] = "import"
    method: str = "import"
    file: str = ""
    part: str | None = None
    gate: str = "linear"
    unconditional: str = "own"

    def words(self) -> list[str] | None:
        """See `Recipe.words`."""
        asked = self._asked()
        if asked is None or not self.file or any(one.anchor for one in self.request.erasures):
            return None
        how: dict[str, Any] = {"gate": self.gate, "unconditional": self.unconditional}
        how |= {} if self.part is None else {"part": self.part}
        return ["import", self.file, *asked, *(flags_of(how) or ())]

    def _places(self) -> tuple[str, ...]:
        return ("model", "file")


@dataclass(frozen=True, kw_only=True)
class TransferRecipe(Recipe):
    """A run's delta, made to fit a fine-tune of its base."""

    kind: ClassVar[str] = "transfer"
    run: str = ""
    """Folder of that run; empty in records of before, which did not write it."""
    delta: str = ""
    """Id of its delta."""

    def words(self) -> list[str] | None:
        """See `Recipe.words`."""
        return ["transfer", self.run, *flag("model", self.model)] if self.run else None

    def _places(self) -> tuple[str, ...]:
        return ("model", "run")


@dataclass(frozen=True, kw_only=True)
class RevokeRecipe(Recipe):
    """Requests in turn without one of them."""

    kind: ClassVar[str] = "revoke"
    method: str = "compose"
    run: str
    """Folder of the last request's run."""
    delta: str
    """Id of its delta."""
    revoked_run: str
    """Folder of the run that is taken out."""
    revoked: str
    """Id of its delta."""
    repeat: bool = False
    """Whether later requests are made again without it, rather than taken as they are."""

    def words(self) -> list[str] | None:
        """See `Recipe.words`."""
        again = ["--repeat"] if self.repeat else []
        return ["revoke", self.revoked_run, *flag("of", self.run), *again]

    def reads(self) -> list[str]:
        """See `Recipe.reads`."""
        return [self.run, self.revoked_run]

    def _places(self) -> tuple[str, ...]:
        return ("model", "run", "revoked_run")


@dataclass(frozen=True, kw_only=True)
class DebiasRecipe(Recipe):
    """Rounds of drawing, counting and moving."""

    kind: ClassVar[str] = "debias"
    method: str = "debias"
    judge: str
    judge_folder: str | None = None
    settings: Mapping[str, Any]
    """All settings."""

    def words(self) -> list[str] | None:
        """See `Recipe.words`; the request is as it was asked, before a model filled it in."""
        words, settings = words_of(self.request, ""), flags_of(self.settings)
        if words is None or settings is None or words.synonyms or words.keep_kind or words.anchor:
            return None
        asked = [*flag("model", self.model), *words.flags()]
        judge = flag("judge", self.judge)
        if self.judge_folder is not None:
            judge += flag("judge-folder", self.judge_folder)
        return ["debias", *asked, *judge, *settings, *flag("seed", self.seed)]

    def _places(self) -> tuple[str, ...]:
        return ("model", "judge_folder")


def usual_preset(model: str, method: str) -> str | None:
    """Names the preset of a method that was measured on a bundled model; None for other models."""
    known = registry.load("methods", method).presets()
    found = [preset for preset in registry.measured_presets(model) if preset in known]
    return found[0] if found else None


def _differing(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value != usual.get(name)}


def _scale(share: float) -> list[str]:
    return [] if share == 1.0 else flag("delta-scale", share)


def _with_preset(part: EraseRecipe) -> dict[str, Any]:
    preset = {} if part.preset is None else {"preset": part.preset}
    return {**preset, **part.settings}


def _plain(value: Any) -> Any:
    """Writes a field as JSON has it."""
    if isinstance(value, ErasureRequest):
        return described(value)
    if isinstance(value, LedgerEntry):
        return vars(value)
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def listed(value: Any) -> Any:
    """Makes tuples of lists, as settings have them."""
    if isinstance(value, Mapping):
        return {name: listed(one) for name, one in value.items()}
    return tuple(listed(one) for one in value) if isinstance(value, list | tuple) else value
