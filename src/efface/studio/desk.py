"""What all tabs share: the model, the folder of runs and nothing outside it, the queue."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface import registry
from efface.errors import BadRequest, EffaceError
from efface.studio.jobs import Queue
from efface.workbench import drawing, lineage, measuring, runs
from efface.workbench.models import is_bundled, load_host

if TYPE_CHECKING:
    from PIL.Image import Image

    from efface.deltas.delta import Delta
    from efface.evaluation.record import Evaluation
    from efface.studio.jobs import Told

__all__ = ["Desk", "RunLine"]


@dataclass(frozen=True)
class RunLine:
    """A run as the browser of runs lists it."""

    name: str
    model: str
    concepts: tuple[str, ...]
    method: str
    outcome: str
    """"not measured" where nobody looked."""
    left: float | None
    kept: float | None
    seconds: float
    delta: str


@dataclass(eq=False)
class Desk:
    """A model, a folder of runs, and the queue of jobs that work on them."""

    root: Path
    model: str = "emoji"
    blur: bool = False
    """Whether pictures are blurred until somebody points at them."""
    queue: Queue = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self._hosts: dict[str, Any] = {}
        self.queue = Queue(self._see_to_it, root=str(self.root))

    def _see_to_it(self) -> None:
        """Forgets a model that a job did not leave as it was: it is read anew."""
        from efface.deltas.application import applied_to

        for name in [name for name, host in self._hosts.items() if applied_to(host)]:
            del self._hosts[name]

    @property
    def draws(self) -> bool:
        """Says whether the model draws pictures."""
        return not registry.reads_pictures(self.model)

    @property
    def vocabulary(self) -> list[str]:
        """Lists the words that the bundled model knows."""
        if not is_bundled(self.model):
            return []
        from efface.bundled.vocabulary import NOUNS, STYLES

        return [*NOUNS, *STYLES]

    def classes(self, model: str) -> list[str]:
        """Lists the classes of a model that reads pictures; none where its folder names none."""
        folder = registry.bundled(model).folder(model) if model in registry.VISION else Path(model)
        try:
            named = json.loads((folder / "config.json").read_text("utf-8")).get("id2label", {})
        except (OSError, ValueError):
            return []
        return [str(named[number]) for number in sorted(named, key=int)]

    def neighbours(self, concepts: Sequence[str]) -> list[str]:
        """Lists what is near concepts, by the bundled vocabulary."""
        if not is_bundled(self.model):
            return []
        from efface.bundled.vocabulary import NOUNS, canonical

        known = [NOUNS[name] for each in concepts if (name := canonical(each)) in NOUNS]
        near = dict.fromkeys(word for noun in known for word in noun.neighbours)
        return [word for word in near if word not in concepts]

    def host(self, output: Told, model: str | None = None) -> Any:
        """Loads a model once; for jobs alone."""
        name = model or self.model
        if name not in self._hosts:
            self._hosts[name] = load_host(name, output)
        return self._hosts[name]

    def place(self, name: str) -> Path:
        """Gives a folder of the root by its name, or by names with slashes in between.

        Raises:
            BadRequest: it is not a name, or leads out of the root, also by a link.
        """
        parts = name.replace("\\", "/").split("/") if name else [""]
        odd = any(part in ("", ".", "..") or part.startswith(".") for part in parts)
        if odd or "\0" in name or len(name) > 200:
            raise BadRequest(f"'{name[:60]}' is not a name of a run; give a plain name")
        found = (self.root / name).resolve()
        if self.root not in found.parents:
            raise BadRequest(f"'{name}' leads out of {self.root}; runs are in that folder")
        return found

    def run_names(self) -> list[str]:
        """Lists runs in the root and in folders of it, the newest first."""
        records = [*self.root.glob("*/run.json"), *self.root.glob("*/*/run.json")]
        found = sorted(records, key=lambda path: path.stat().st_mtime, reverse=True)
        names = [str(path.parent.relative_to(self.root)) for path in found]
        return [name for name in names if self._inside(name)]

    def _inside(self, name: str) -> bool:
        try:
            return bool(self.place(name))
        except BadRequest:
            return False

    def drawn_runs(self) -> list[str]:
        """Lists the runs of this studio's model."""
        return [line.name for line in self.lines() if line.model == self.model]

    def lines(self) -> list[RunLine]:
        """Describes every run that can be read."""
        return [line for name in self.run_names() for line in self._line(name)]

    def _line(self, name: str) -> Iterator[RunLine]:
        try:
            record = runs.recipe_of(self.place(name))
            evaluation = self.evaluation(name)
        except EffaceError:
            return
        facts = runs.record_of(self.place(name))
        yield RunLine(
            name=name,
            model=record.model,
            concepts=tuple(one.concept.name for one in record.request.erasures),
            method=record.method,
            outcome=_outcome(evaluation),
            left=_rate(evaluation, "erased"),
            kept=_rate(evaluation, "kept"),
            seconds=float(facts.get("seconds", 0.0)),
            delta=str(facts.get("delta", "")),
        )

    def evaluation(self, name: str) -> Evaluation | None:
        """Reads what was measured of a run; None where it was not.

        Raises:
            BadRequest: the file is broken, or its pictures lie outside the root.
        """
        from efface.evaluation.record import Evaluation

        folder = self.place(name)
        if not (folder / measuring.EVALUATION).is_file():
            return None
        found = Evaluation.load(folder)
        if self.root not in found.store.resolve().parents:
            raise BadRequest(f"the pictures of {name} lie outside {self.root}; measure it again")
        return found

    def deltas(self, names: Sequence[str]) -> list[Delta]:
        """Reads the deltas of runs with those beneath them, each once."""
        every = [one for name in names for one in lineage.deltas_with_parents(self.place(name))]
        return [*{delta.id: delta for delta in every}.values()]

    @contextmanager
    def applied(self, pipe: Any, deltas: Sequence[Delta], scale: float = 1.0) -> Iterator[None]:
        """Runs the body with deltas in force, the last one scaled."""
        with ExitStack() as stack:
            for number, delta in enumerate(deltas, 1):
                share = scale if number == len(deltas) else 1.0
                stack.enter_context(delta.apply(pipe, scale=share))
            yield

    def picture(self, pipe: Any, prompt: str, seed: int, output: Told) -> Image:
        """Draws one picture with the model's usual sampling."""
        shots = [drawing.Shot(prompt, seed)]
        return drawing.draw(pipe, shots, drawing.sampling_for(self.model), output)[0]


def _outcome(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "not measured"
    return evaluation.outcome.name if evaluation.outcome else evaluation.verdict


def _rate(evaluation: Evaluation | None, role: Any) -> float | None:
    if evaluation is None:
        return None
    found = evaluation.find(evaluation.main_metric, role)
    return None if found is None or found.after is None else found.after.value
