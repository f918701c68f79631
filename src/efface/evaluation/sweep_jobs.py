"""One job of a sweep: erases a concept with given settings, and measures what came of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from efface import registry
from efface.concepts import ConceptKind, ErasureRequest
from efface.content import content_hash
from efface.contracts import Eraser, Judge, Suite
from efface.deltas.results import ErasureResult
from efface.errors import BadRequest, MissingInput
from efface.evaluation.attack_files import sheet
from efface.evaluation.encoding import encoded
from efface.evaluation.images import ImageStore
from efface.evaluation.jobs import bench_of
from efface.evaluation.locks import locked
from efface.evaluation.record import Evaluation
from efface.evaluation.runner import evaluate
from efface.evaluation.samples import in_role
from efface.evaluation.stores import ResultStore
from efface.evaluation.suites import suite_for
from efface.hosts.loading import load
from efface.hosts.pipelines import text_to_image
from efface.runs.erasing import perform
from efface.runs.recipe import EraseRecipe, StagesRecipe, usual_preset
from efface.runs.words import Words, understood

__all__ = ["Measuring", "SweepJob", "base_print"]

SHOWN = 8
"""Pictures of the erased concept on a job's sheet, before above after."""
_BLOCKS, _BLOCK = 16, 1 << 16
"""How many pieces of a file are read to tell it from others, and bytes of each."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How erasures are measured."""

    size: str = "short"
    """How many pictures the suite has; see ``efface evaluate --size``."""
    judge: str | None = None
    """A judge by name; None: the bundled model's own."""
    judge_folder: str | None = None
    """Of the judge's model, where it needs one."""
    batch: int = 16
    """Pictures drawn at a time; last bits depend on it."""


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """Erases one concept once."""

    model: str
    """A bundled model or a folder."""
    base: str
    """What `base_print` says of it."""
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Those that are given, the preset among them; of methods in turn a table for each stage."""
    concept: str
    anchor: str | None = None
    keep: tuple[str, ...] = ()
    kind: ConceptKind | None = None
    seed: int = 0
    measuring: Measuring | None = field(default_factory=Measuring)
    delta: bool = True
    """Whether what was made is kept."""

    @cached_property
    def id(self) -> str:
        """Sixteen hex digits of all that decides the result.

        Settings count as the method has them in the end, so that a default that is written out
        makes no other job, and a preset that has changed does.
        """
        suite = self.suite()
        built = [(one.name, one.revision, one) for one in self.methods()]
        own = {name: value for name, value in asdict(self).items() if name not in _ELSEWHERE}
        version = f"{suite.name}@{suite.version}" if suite else ""
        return content_hash("sweep", json.dumps(own, sort_keys=True), built, version)

    @property
    def result(self) -> str:
        """The name of its result in a store."""
        return f"rows/{self.id}.json"

    @property
    def label(self) -> str:
        """Method and settings in one line, without a preset that goes without saying."""
        stages = self.method.split("+")
        tables = self.settings if len(stages) > 1 else {self.method: self.settings}
        told = []
        for stage, table in tables.items():
            usual = _usual(self.model, stage.partition("-")[0])
            prefix = f"{stage}." if len(stages) > 1 else ""
            shown = {n: v for n, v in table.items() if (n, v) != ("preset", usual)}
            told += [f"{prefix}{name}={value}" for name, value in shown.items()]
        return " ".join([self.method, *told])

    @property
    def title(self) -> str:
        """What is done, in one line."""
        return f"{self.label} on {self.concept}, seed {self.seed}"

    def request(self) -> ErasureRequest:
        """Writes the request."""
        return _asked(self.model, self.concept, self.anchor, self.keep, self.kind)

    def suite(self) -> Suite | None:
        """Gives what is measured; None: nothing."""
        if self.measuring is None:
            return None
        _check_judge(self.model, self.measuring.judge)
        return _suite(self.model, self.request(), self.measuring.size)

    def recipe(self) -> EraseRecipe | StagesRecipe:
        """Writes down what decides the delta."""
        both: dict[str, Any] = {"model": self.model, "request": self.request(), "seed": self.seed}
        if "+" in self.method:
            return StagesRecipe(**both, method=self.method, settings=self.settings)
        given = dict(self.settings)
        preset = given.pop("preset", None)
        return EraseRecipe(**both, method=self.method, preset=preset, settings=given)

    def methods(self) -> list[Eraser[Any]]:
        """Builds its methods, those in turn in their order.

        Raises:
            BadRequest: an unknown method, preset or setting, or a value out of range.
        """
        names = self.method.split("+")
        tables = [self.settings]
        if len(names) > 1:
            tables = [self.settings.get(stage, {}) for stage in registry.stage_names(names)]
        each = zip(names, tables, strict=True)
        return [_built(name, json.dumps(dict(table), sort_keys=True)) for name, table in each]

    def steps(self) -> int:
        """Counts the training steps of its methods."""
        return sum(int(getattr(method, "steps", 0)) for method in self.methods())

    def perform(self, store: ResultStore) -> None:
        """Erases and measures; writes the delta, a sheet of pictures, and then the row."""
        began = time.perf_counter()
        pipe = _pipe_of(self.model)
        made = perform(self.recipe(), pipe)
        found = None if self.measuring is None else self._measured(pipe, made, store)
        if self.delta:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "delta.safetensors"
                made.delta.save(file)
                store.write(f"deltas/{self.id}.safetensors", file.read_bytes())
        row = {
            "job": encoded(self),
            "seconds": made.seconds,
            "seconds_in_all": time.perf_counter() - began,
            "peak_bytes": made.peak_bytes,
            "network_evaluations": made.diagnostics.get("network_evaluations", 0),
            "delta": made.delta.id,
            "diagnostics": json.loads(json.dumps(encoded(made.diagnostics), default=str)),
            "curves": encoded(made.curves),
            "evaluation": None if found is None else _slim(found),
        }
        store.write_json(self.result, row)

    def _measured(self, pipe: Any, made: ErasureResult, store: ResultStore) -> Evaluation:
        """Draws, judges, and keeps a sheet; pictures of the edited model are not kept."""
        if self.measuring is None or (suite := self.suite()) is None:
            raise AssertionError("a job that is not measured has no suite")
        judge, clip = _instruments(self.model, self.measuring)
        folder = Path(_spare_folder().name) if store.folder is None else store.folder / "pictures"
        pictures = ImageStore(folder, batch_size=self.measuring.batch)
        # Seeds of a closed form give one delta, and so one folder of pictures.
        with locked(folder / "in_use" / made.delta.id[:3], patience=-1.0):
            found = evaluate(pipe, made.delta, suite, judge, store=pictures, clip=clip)
            if found.after is not None:
                store.write(f"sheets/{self.id}.png", _sheet(found, pictures))
                shutil.rmtree(folder / found.after.key)
        return found


_ELSEWHERE = ("model", "method", "settings")
"""Fields that an id has by their content."""


@lru_cache(maxsize=64)
def base_print(model: str) -> str:
    """Tells a model from others by pieces of its files, wherever its folder lies.

    Raises:
        BadRequest: it is neither a bundled model that draws nor a folder.
    """
    if model in registry.BUNDLED:
        folder = Path(registry.bundled(model).pipeline_folder())
    elif Path(model).is_dir() and not registry.reads_pictures(model):
        folder = Path(model)
    else:
        raise BadRequest(
            f"'{model}' is neither a bundled model that draws ({', '.join(registry.BUNDLED)}) nor "
            "the folder of one; sweeps are made on those"
        )
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(b"".join(_pieces(path)))
    # Some bundled models share a folder, and differ in what is done to it afterwards.
    return content_hash(model if model in registry.BUNDLED else "", digest.hexdigest())


def _pieces(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    yield str(size).encode()
    with path.open("rb") as file:
        for place in range(_BLOCKS):
            file.seek(place * max(size - _BLOCK, 0) // (_BLOCKS - 1))
            yield file.read(_BLOCK)


@lru_cache(maxsize=1024)
def _built(method: str, settings: str) -> Eraser[Any]:
    """Builds a method once for all concepts and seeds.

    Args:
        method: its name.
        settings: as JSON, with the preset.

    Raises:
        BadRequest: see `efface.registry.build`; or it does not change weights.
    """
    made = registry.build("methods", method, **json.loads(settings))
    if not isinstance(made, Eraser):
        raise BadRequest(f"{method} does not erase by changing weights; choose an eraser")
    return made


_usual = lru_cache(maxsize=1024)(usual_preset)
"""Usual presets, by model and method."""


def _check_judge(model: str, judge: str | None) -> None:
    """Refuses to measure without a judge, or with one that nobody needs.

    Raises:
        MissingInput, BadRequest: saying what to give, or that there is no such judge.
    """
    if model in registry.BUNDLED:
        if judge is not None:
            raise BadRequest(f"{model} comes with a judge of its own; leave judge '{judge}' out")
    elif judge is None:
        raise MissingInput(
            f"{model} needs a judge to be measured: give judge and judge_folder, or measure = false"
        )
    else:
        registry.find("judges", judge)


@lru_cache(maxsize=256)
def _asked(
    model: str, concept: str, anchor: str | None, keep: tuple[str, ...], kind: ConceptKind | None
) -> ErasureRequest:
    words = Words(concepts=(concept,), anchor=anchor, keep=keep, kind=kind)
    return understood(words.request(), model)


@lru_cache(maxsize=256)
def _suite(model: str, request: ErasureRequest, size: str) -> Suite:
    return suite_for("emoji" if model in registry.BUNDLED else "basic", request, size=size)


@lru_cache(maxsize=1)
def _pipe_of(model: str) -> Any:
    """Loads a model once in a process, however many jobs it does."""
    if model in registry.BUNDLED:
        return bench_of(model).pipe
    pipe = text_to_image(load(model))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@lru_cache(maxsize=1)
def _instruments(model: str, measuring: Measuring) -> tuple[Judge, Any]:
    """Gives the judge, and what CLIP scores are measured with."""
    if model in registry.BUNDLED:
        from efface.bundled.clip import EmojiClip

        return bench_of(model).judge, EmojiClip()
    from efface.hosts.clip import FolderClip

    folder = measuring.judge_folder
    given: dict[str, Any] = {} if folder is None else {"folder": Path(folder)}
    judge: Judge = registry.build("judges", str(measuring.judge), **given)
    return judge, None if folder is None else FolderClip(folder)


@lru_cache(maxsize=1)
def _spare_folder() -> tempfile.TemporaryDirectory[str]:
    """Gives a folder for pictures that goes with this process, where results lie out of reach."""
    return tempfile.TemporaryDirectory(prefix="efface-pictures-")


def _sheet(found: Evaluation, pictures: ImageStore) -> bytes:
    """Puts pictures of the erased prompts before the erasure above those after it."""
    samples = in_role(found.samples, "erased")[:SHOWN]
    lines = []
    for source in (found.before, found.after):
        if source is not None:
            drawn = [*pictures.load(source, samples)]
            lines += [*drawn, *[torch.ones_like(drawn[0])] * (SHOWN - len(drawn))]
    return sheet(lines)


def _slim(found: Evaluation) -> dict[str, Any]:
    """Leaves out prompts and what each picture scored, which the suite's version fixes."""
    plain: dict[str, Any] = {**encoded(found), "outcome": encoded(found.outcome), "store": ""}
    left_out = ("samples", "answers", "changed")
    return {name: value for name, value in plain.items() if name not in left_out}
