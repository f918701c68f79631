"""``efface export RUN --as FORMAT``: a run's delta in the files that other tools read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import tyro

from efface import registry
from efface.cli import lineage, runs
from efface.cli.hosts import folder_of_model, host_for, quiet_loading
from efface.cli.shell import Shared, parse
from efface.errors import BadRequest
from efface.files import check_place, parse_json, replacing, seal, write_atomically

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.deltas.delta import Delta

__all__ = ["Export", "Format", "Job", "run"]

Format: TypeAlias = Literal[
    "diffusers",
    "transformers",
    "component",
    "diffusers-lora",
    "peft",
    "kohya",
    "spm",
    "adapter",
    "module",
]
_FILES: tuple[Format, ...] = ("kohya", "spm", "adapter")
"""Formats that are one file."""


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
    """Replace an older export there, if nothing in it was added or changed since."""


@dataclass(frozen=True)
class Job:
    """Everything that a writer needs."""

    options: Export
    found: runs.Run
    model: str
    output: Output
    place: Path
    """Where to write; it becomes ``options.out``."""

    @cached_property
    def delta(self) -> Delta:
        """What is exported, with the requests beneath it where the format can hold several."""
        if self.options.as_ in ("spm", "adapter", "module"):
            return self.found.delta
        return lineage.composed(self.found.folder)

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
    model = options.model or runs.recipe_of(options.source).model
    _check_kind(options.as_, model)
    protected = _check_out(options, found, model)
    cards = _cards(found, options)
    with replacing(options.out, overwrite=options.overwrite, protected=protected) as place:
        told = _WRITERS[options.as_](Job(options, found, model, output, place))
        if place.is_dir():
            seal(_with_cards(place, found, options))
        for card, content in cards.items():
            write_atomically(card, content)
    told += runs.without_gate(found.delta)
    told += _left_out(found)
    output.say(f"wrote {options.out}: {told}", *(f"wrote {card}" for card in cards))
    fields_told = {"as": options.as_, "out": str(options.out), "told": told}
    output.result({**fields_told, "delta": found.delta.id, "scale": options.scale})
    return 0


def _check_kind(format_: Format, model: str) -> None:
    """Refuses formats of models that draw for one that reads pictures, and the reverse.

    Raises:
        BadRequest: naming the formats that there are.
    """
    reads = registry.reads_pictures(model)
    if reads and format_ not in ("transformers", "peft"):
        raise BadRequest(
            f"{model} reads pictures and {format_} is for models that draw; export the edited "
            "folder with --as transformers, or low-rank layers with --as peft"
        )
    if not reads and format_ == "transformers":
        raise BadRequest(
            f"{model} draws pictures and transformers is for models that read them; export the "
            "edited folder with --as diffusers"
        )


def _check_out(options: Export, found: runs.Run, model: str) -> list[Path]:
    """Refuses places that must not be written to; gives what must stay.

    Raises:
        BadRequest: it is taken, protected, or of the wrong kind; see `check_place`.
    """
    base = Path(model)
    if base.is_dir() and base.resolve() in options.out.resolve().parents:
        raise BadRequest(f"{options.out} lies inside the model {base}; give a name outside of it")
    protected = [found.folder, *([base] if base.exists() else [])]
    check_place(options.out, overwrite=options.overwrite, protected=protected)
    if options.as_ in _FILES and options.out.is_dir():
        raise BadRequest(f"{options.out} is a folder, and {options.as_} is one file; name a file")
    return protected


def _cards(found: runs.Run, options: Export) -> Mapping[Path, bytes]:
    """Gives what is written beside a file: the run's cards, under the file's name.

    Raises:
        BadRequest: there is something else of that name.
    """
    from efface.exchange.cards import cards_of

    if options.as_ not in _FILES:
        return {}
    cards = {
        options.out.with_name(f"{options.out.stem}.{card.name}"): card.read_bytes()
        for card in cards_of(found.folder, found.delta.id)[0]
    }
    for card, content in cards.items():
        known = not card.exists() or (card.is_file() and card.read_bytes() == content)
        if card.is_symlink() or not (known or (options.overwrite and _is_card(card))):
            raise BadRequest(f"{card} is there already, beside {options.out}; give another --out")
    return cards


def _is_card(file: Path) -> bool:
    """Tells a card that efface wrote."""
    if not file.is_file():
        return False
    if file.suffix != ".json":
        return b"\n- concept-erasure\n" in file.read_bytes()
    try:
        values = parse_json(file.read_bytes(), str(file))
    except BadRequest:
        return False
    return isinstance(values, dict) and {"verdict", "identity", "scope"} <= values.keys()


def _with_cards(place: Path, found: runs.Run, options: Export) -> Path:
    from efface.exchange.cards import cards_of

    if options.as_ not in ("diffusers", "transformers"):
        for card in cards_of(found.folder, found.delta.id)[0]:
            write_atomically(place / card.name, card.read_bytes())
    return place


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
        spm_files.write_spm(layers, job.place, job.facts, prompts=prompts, gated=gated)
    else:
        write: Callable[..., Path] = getattr(lora_files, writer)
        write(layers, job.place, job.facts)
    lost = f"{layers.lost:.2%} of the change is lost" if layers.lost else "nothing is lost"
    if writer == "write_spm" and job.delta.gate is not None and job.delta.gate.membranes > 1:
        lost += f"; SPM opens all {job.delta.gate.membranes} membranes for any of the prompts"
    if writer == "write_spm" and job.delta.gate is not None and job.delta.gate.reads_parts:
        lost += "; SPM's gate knows whole prompts alone, so words around a name may shut it"
    full = f" and {len(layers.full)} biases and norms, for ComfyUI alone" if layers.full else ""
    return f"{len(layers.by_module)} layers of rank {layers.rank}{full}, {lost}"


def _adapter(job: Job) -> str:
    from efface.exchange.adapter import write_adapter

    write_adapter(job.delta, job.place, job.facts, scale=job.options.scale)
    size = job.place.stat().st_size / 1e6
    return f"{size:.2f} MB for prompt embeddings, of every checkpoint with this text encoder"


def _module(job: Job) -> str:
    from efface.exchange.adapter import write_module

    write_module(job.delta, job.place, job.facts, scale=job.options.scale)
    return "a module of diffusers with the file that defines it; whoever has it can leave it out"


def _card(job: Job) -> str | None:
    from efface.exchange.cards import cards_of

    own = cards_of(job.found.folder, job.found.delta.id)[0]
    return next((card.read_text("utf-8") for card in own if card.name == "card.md"), None)


def _transformers(job: Job) -> str:
    from efface.exchange.recognisers import write_recogniser

    base, scale = folder_of_model(job.model), job.options.scale
    with job.output.progress("editing"), quiet_loading():
        tensors = write_recogniser(base, job.delta, job.place, card=_card(job), scale=scale)
    return f"{tensors} tensors changed; load it as the model it was"


def _diffusers(job: Job) -> str:
    from efface.exchange.folders import write_folder

    text = _card(job)
    base, scale = folder_of_model(job.model), job.options.scale
    with job.output.progress("copying and editing") as monitor:
        made = write_folder(base, job.delta, job.place, card=text, scale=scale, monitor=monitor)
    left = f"; left out {', '.join(made.left_out)}" if made.left_out else ""
    return f"{made.tensors} tensors changed, {made.bytes / 1e6:.1f} MB{left}"


def _component(job: Job) -> str:
    from efface.exchange.folders import write_component, write_folder

    base = folder_of_model(job.model)
    with job.output.progress("copying and editing") as monitor:
        copy = partial(write_folder, base, job.delta, scale=job.options.scale, monitor=monitor)
        parts = write_component(job.delta, job.place, copy)
    return f"{', '.join(parts)} alone, edited"


_WRITERS: dict[Format, Callable[[Job], str]] = {
    "diffusers": _diffusers,
    "transformers": _transformers,
    "component": _component,
    "diffusers-lora": partial(_lora, writer="write_diffusers"),
    "peft": partial(_lora, writer="write_peft"),
    "kohya": partial(_lora, writer="write_kohya"),
    "spm": partial(_lora, writer="write_spm"),
    "adapter": _adapter,
    "module": _module,
}
