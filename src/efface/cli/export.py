"""``efface export RUN --as FORMAT``: a run's delta in the files that other tools read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import tyro

from efface.cli import runs
from efface.cli.hosts import folder_of_model, host_for
from efface.cli.shell import Shared, parse
from efface.errors import BadRequest

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.deltas.delta import Delta

__all__ = ["Export", "Format", "Job", "run"]

Format: TypeAlias = Literal[
    "diffusers", "component", "diffusers-lora", "peft", "kohya", "spm", "adapter"
]


@dataclass(frozen=True, kw_only=True)
class Export(Shared):
    """What to export, as what, and to where."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    as_: Annotated[Format, tyro.conf.arg(name="as")]
    """What to write; docs/exchange.md says who reads it and what is lost."""
    out: Path
    """File (kohya, spm, adapter) or folder (the others) to write."""
    model: str | None = None
    """Folder of the base model; by default the model that the run names."""
    scale: float = 1.0
    """How much of the delta goes in; 1 is all of it."""
    rank: int | None = None
    """Cut LoRA files to this rank; what is lost is told. Needed where a change is dense."""
    overwrite: bool = False
    """Replace what is there."""


@dataclass(frozen=True)
class Job:
    """Everything that a writer needs."""

    options: Export
    found: runs.Run
    model: str
    output: Output

    @property
    def delta(self) -> Delta:
        """What is exported."""
        return self.found.delta

    @property
    def facts(self) -> dict[str, str]:
        """What goes into a file's header."""
        made = self.delta.provenance
        told = {"efface_delta": self.delta.id, "base_model": made.base_model}
        return {**told, "efface_method": made.method}


def run(arguments: list[str], output: Output) -> int:
    """Writes the files, the Erasure Card beside them where the run has one, and says what is lost.

    Raises:
        BadRequest: the place is taken, or the format cannot hold the delta.
    """
    about = "Writes a run's delta in the files that other tools read."
    options = parse(Export, arguments, prog="efface export", description=about)
    from efface.exchange.low_rank import check_exportable

    found = runs.open_run(options.source)
    check_exportable(found.delta, scale=options.scale, rank=options.rank)
    _make_room(options)
    model = options.model or runs.recipe_of(options.source).model
    told = _WRITERS[options.as_](Job(options, found, model, output))
    told += runs.without_gate(found.delta)
    place = options.out if options.out.is_dir() else options.out.parent
    cards = [] if options.as_ == "diffusers" else _copy_cards(found, place, options)
    told += _left_out(found)
    output.say(f"wrote {options.out}: {told}", *(f"wrote {card}" for card in cards))
    fields_told = {"as": options.as_, "out": str(options.out), "told": told}
    output.result({**fields_told, "delta": found.delta.id, "scale": options.scale})
    return 0


def _make_room(options: Export) -> None:
    taken = options.out.exists() and not (options.out.is_dir() and not any(options.out.iterdir()))
    if taken and not options.overwrite:
        raise BadRequest(f"{options.out} is there already; give another --out, or --overwrite")
    if taken and options.out.is_dir():
        shutil.rmtree(options.out)


def _copy_cards(found: runs.Run, place: Path, options: Export) -> list[Path]:
    from efface.exchange.cards import cards_of

    written = []
    for card in cards_of(found.folder, found.delta.id)[0]:
        own = f"{options.out.stem}.{card.name}" if place == options.out.parent else card.name
        written.append(Path(shutil.copyfile(card, place / own)))
    return written


def _left_out(found: runs.Run) -> str:
    """Says that the run's cards are of another delta."""
    from efface.exchange.cards import cards_of

    names = ", ".join(card.name for card in cards_of(found.folder, found.delta.id)[1])
    return (
        f"; left out {names}, which are of another delta: evaluate the run again" if names else ""
    )


def _lora(job: Job, *, writer: str) -> str:
    from efface.exchange import lora_files, spm_files
    from efface.exchange.low_rank import layers_of
    from efface.hosts.components import TEXT_KEYS

    text_only = job.delta.patches.keys() <= TEXT_KEYS.keys()
    host = host_for(job.model, "uce", job.output, pictures=not text_only)
    scale, rank = job.options.scale, job.options.rank
    layers = layers_of(job.delta, host, scale=scale, rank=rank, biases=writer == "write_kohya")
    if writer == "write_spm":
        prompts, gated = spm_files.prompts_of(job.delta), job.delta.gate is not None
        spm_files.write_spm(layers, job.options.out, job.facts, prompts=prompts, gated=gated)
    else:
        write: Callable[..., Path] = getattr(lora_files, writer)
        write(layers, job.options.out, job.facts)
    lost = f"{layers.lost:.2%} of the change is lost" if layers.lost else "nothing is lost"
    if writer == "write_spm" and job.delta.gate is not None and job.delta.gate.membranes > 1:
        lost += f"; SPM opens all {job.delta.gate.membranes} membranes for any of the prompts"
    full = f" and {len(layers.full)} biases and norms, for ComfyUI alone" if layers.full else ""
    return f"{len(layers.by_module)} layers of rank {layers.rank}{full}, {lost}"


def _adapter(job: Job) -> str:
    from efface.exchange.adapter import write_adapter

    write_adapter(job.delta, job.options.out, job.facts, scale=job.options.scale)
    size = job.options.out.stat().st_size / 1e6
    return f"{size:.2f} MB for prompt embeddings, of every checkpoint with this text encoder"


def _diffusers(job: Job) -> str:
    from efface.exchange.cards import cards_of
    from efface.exchange.folders import write_folder

    own = cards_of(job.found.folder, job.delta.id)[0]
    text = next((card.read_text("utf-8") for card in own if card.name == "card.md"), None)
    base, scale = folder_of_model(job.model), job.options.scale
    with job.output.progress("copying and editing") as monitor:
        made = write_folder(
            base, job.delta, job.options.out, card=text, scale=scale, monitor=monitor
        )
    left = f"; left out {', '.join(made.left_out)}" if made.left_out else ""
    return f"{made.tensors} tensors changed, {made.bytes / 1e6:.1f} MB{left}"


def _component(job: Job) -> str:
    from efface.exchange.folders import write_component, write_folder

    base = folder_of_model(job.model)
    with job.output.progress("copying and editing") as monitor:
        copy = partial(write_folder, base, job.delta, scale=job.options.scale, monitor=monitor)
        parts = write_component(job.delta, job.options.out, copy)
    return f"{', '.join(parts)} alone, edited"


_WRITERS: dict[Format, Callable[[Job], str]] = {
    "diffusers": _diffusers,
    "component": _component,
    "diffusers-lora": partial(_lora, writer="write_diffusers"),
    "peft": partial(_lora, writer="write_peft"),
    "kohya": partial(_lora, writer="write_kohya"),
    "spm": partial(_lora, writer="write_spm"),
    "adapter": _adapter,
}
