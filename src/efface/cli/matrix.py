"""``efface matrix``: many methods under many attacks, and a picture of what undoes what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from efface import registry
from efface.cli.shell import Repeated, Shared, parse
from efface.errors import BadRequest
from efface.evaluation.executors import Executor, Hear, Workers
from efface.workbench.models import methods_for, refuse_readers

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.evaluation.jobs import Plan
    from efface.evaluation.matrix import Matrix

__all__ = ["METHODS", "MatrixOptions", "run"]

METHODS = (
    "uce",
    "rece",
    "realera",
    "trce",
    "esd",
    "concept_ablation",
    "all_but_one",
    "doco",
    "spm",
    "ant",
    "few_shot",
    "advunlearn",
    "uce+spm",
    "trce+trce_vision",
)
"""What is attacked when no method is named; those that are not installed are left out."""
CONCEPTS = ("pistol", "cat", "pizza", "neon")
RESULT, PAGE = "matrix.json", "matrix.html"
FIGURES = ("matrix.png", "transfers.png")


@dataclass(frozen=True, kw_only=True)
class MatrixOptions(Shared):
    """Methods, attacks and concepts, and who does the work."""

    out: Path | str
    """Folder of the results, or an address that fsspec knows, such as s3://bucket/folder. What is
    there is not done again."""
    methods: Repeated = ()
    """A method, or several in turn joined by "+"; repeat for several. By default all."""
    attacks: Repeated = ()
    """An attack by name; repeat for several. By default all."""
    concepts: Repeated = ()
    """What is erased and brought back; repeat for several."""
    model: str = "emoji"
    """A bundled model, whose judges and prompts are known."""
    budget: int = 2000
    """Network evaluations that each trial may take, drawing included."""
    pictures: int = 12
    """Pictures that each trial may draw."""
    trials: int = 4
    """Prompts and seeds of each concept that are attacked, each by itself."""
    seed: int = 0
    """Of erasures and attacks."""
    executor: Executor = "processes"
    """Who does the jobs: this process, processes of this machine, or a Ray cluster."""
    workers: int = 2
    """Jobs at a time."""
    address: str | None = None
    """Of the Ray cluster, such as auto or ray://host:10001; by default one of this machine."""


def run(arguments: list[str], output: Output) -> int:
    """Does what is missing, then writes the table, the heat map and the page."""
    options = parse(
        MatrixOptions, arguments, prog="efface matrix", description="Attacks many erasures."
    )
    from efface.evaluation.matrix import run_plan

    plan = _plan(options)
    workers = Workers(executor=options.executor, count=options.workers, address=options.address)
    output.after_interrupt = "results so far are kept; run the same command again to go on"
    with output.progress("robustness matrix") as bar:

        def hear(title: str) -> Hear:
            def told(done: int, total: int, error: str) -> None:
                bar.before(title, done, total)
                if error:
                    output.say(f"not done: {error}")

            return told

        matrix = run_plan(plan, str(options.out), workers, hear)
    return _write(matrix, str(options.out), output)


def _plan(options: MatrixOptions) -> Plan:
    """Checks names before any work.

    Raises:
        BadRequest: an unknown method, attack, concept or model, a method for other models, or more
            trials than there are.
    """
    refuse_readers(options.model, "matrix")
    from efface.bundled.vocabulary import concept
    from efface.evaluation.bench import Bench
    from efface.evaluation.jobs import Plan
    from efface.revival.attempts import Budget

    methods = options.methods or _installed()
    for method in methods:
        for stage in method.split("+"):
            registry.find("methods", stage)
    attacks = options.attacks or [entry.name for entry in registry.entries("attacks")]
    named = [registry.find("attacks", attack).name for attack in attacks]
    if options.model not in registry.BUNDLED:
        raise BadRequest(
            f"'{options.model}' is not a bundled model, whose prompts and judges are known; attack "
            "a run of it with efface attack RUN --judge ..."
        )
    _check_methods(methods, options.model)
    concepts = dict.fromkeys(concept(name).name for name in options.concepts or CONCEPTS)
    for name in concepts:
        Bench(options.model).trials(name, options.trials)
    return Plan(
        methods=tuple(dict.fromkeys(methods)),
        attacks=tuple(dict.fromkeys(named)),
        concepts=tuple(concepts),
        model=options.model,
        budget=Budget(evaluations=options.budget, pictures=options.pictures),
        trials=options.trials,
        seed=options.seed,
    )


def _check_methods(methods: Sequence[str], model: str) -> None:
    known = methods_for(model)
    for name in dict.fromkeys(stage for method in methods for stage in method.split("+")):
        if name not in known:
            raise BadRequest(f"{name} does not edit {model}; those that do: {', '.join(known)}")


def _installed() -> Sequence[str]:
    known = {entry.name for entry in registry.entries("methods")}
    return [method for method in METHODS if known.issuperset(method.split("+"))]


def _write(matrix: Matrix, place: str, output: Output) -> int:
    """Writes what people look at; exit code 1 says that jobs failed or a judge did."""
    from efface.evaluation.stores import ResultStore
    from efface.reports.matrix import heat_map, matrix_page, matrix_table, transfer_map

    store = ResultStore(place)
    store.write_json(RESULT, matrix.plain())
    if matrix.pooled:
        for name, draw in zip(FIGURES, (heat_map, transfer_map), strict=True):
            store.write(name, draw(matrix))
    store.write(PAGE, matrix_page(matrix, store).encode())
    output.say(matrix_table(matrix), f"wrote {RESULT}, {PAGE} and {FIGURES[0]} to {place}")
    output.say(*(f"not done: {failure}" for failure in matrix.failures))
    output.result(json.loads(json.dumps(matrix.plain())))
    broken = any(cell.verdict == "invalid" for cell in matrix.pooled)
    return int(broken or bool(matrix.failures))
