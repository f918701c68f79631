"""Exports a run's delta in the files that other tools read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from efface import registry
from efface.errors import BadRequest
from efface.files import check_place, parse_json, replacing, seal, write_atomically
from efface.workbench import lineage, runs
from efface.workbench.models import ANYWHERE, Place, folder_of_model, host_for, quiet_loading

if TYPE_CHECKING:
    from efface.deltas.delta import Delta
    from efface.workbench.telling import Telling

__all__ = ["READERS", "Format", "Job", "Wanted", "export"]

Format: TypeAlias = Literal[
    "diffusers",
    "transformers",
    "component",
    "diffusers-lora",
    "peft",
    "kohya",
    "comfyui",
    "spm",
    "adapter",
    "module",
]
_WHOLE = "\nbase_model_relation: finetune\n"
_FILES: tuple[Format, ...] = ("kohya", "comfyui", "spm", "adapter")
"""Formats that are one file."""
READERS: dict[Format, str] = {
    "kohya": "ComfyUI, Forge, AUTOMATIC1111 (LoRA file)",
    "comfyui": "ComfyUI (dense changes too)",
    "diffusers": "diffusers (edited model folder)",
    "diffusers-lora": "diffusers (load_lora_weights)",
    "component": "diffusers (edited part of a folder)",
    "peft": "PEFT",
    "spm": "SPM",
    "adapter": "prompt embeddings of any checkpoint",
    "transformers": "transformers (edited model folder)",
    "module": "diffusers, with its own module (a map of text rows)",
}
"""The tool that each format is for."""


_ALONE = ("spm", "adapter", "module")
"""Formats that hold one request's change, without those beneath it."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to export, as what, and to where."""

    source: Path
    """Run folder."""
    as_: Format
    out: Path
    """File (kohya, comfyui, spm, adapter) or folder (the others) to write."""
    model: str | None = None
    """Folder of the base model; None: the model that the run names."""
    scale: float = 1.0
    rank: int | None = None
    placed: Place = ANYWHERE
    """Where the model is put, if it is loaded."""
    author: str = ""
    """Who made the edit, for the file's header."""
    license: str = ""
    """Licence of the edit, for the file's header; "": what the base's card says."""
    overwrite: bool = False


@dataclass(frozen=True)
class Job:
    """Everything that a writer needs."""

    options: Wanted
    found: runs.Run
    model: str
    output: Telling
    place: Path
    """Where to write; it becomes ``options.out``."""

    @cached_property
    def delta(self) -> Delta:
        """What is exported, with the requests beneath it where the format can hold several."""
        if self.options.as_ in _ALONE:
            return self.found.delta
        return lineage.composed(self.found.folder)

    @property
    def facts(self) -> dict[str, str]:
        """What goes into a file's header."""
        from efface.exchange.describing import described_run

        made, options = self.delta.provenance, self.options
        told = {"efface_delta": self.delta.id, "base_model": made.base_model}
        described = described_run(
            self.found.folder,
            self.delta,
            self.found.record,
            name=options.out.stem,
            model=self.model,
            author=options.author,
            licence=options.license,
        )
        return {**told, "efface_method": made.method, **described.fields()}


def export(options: Wanted, output: Telling) -> None:
    """Writes the files, the Erasure Card beside them where the run has one, and says what is lost.

    Raises:
        BadRequest: the place is taken, or the format cannot hold the delta.
    """
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
    if options.as_ != "spm":
        told += runs.without_gate(found.delta)
    told += _left_out(found, options)
    output.say(f"wrote {options.out}: {told}", *(f"wrote {card}" for card in cards))
    fields_told = {"as": options.as_, "out": str(options.out), "told": told}
    output.result({**fields_told, "delta": found.delta.id, "scale": options.scale})


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


def _check_out(options: Wanted, found: runs.Run, model: str) -> list[Path]:
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


def _cards(found: runs.Run, options: Wanted) -> Mapping[Path, bytes]:
    """Gives what is written beside a file: the run's cards, under the file's name.

    Raises:
        BadRequest: there is something else of that name.
    """
    if options.as_ not in _FILES:
        return {}
    cards = {
        options.out.with_name(f"{options.out.stem}.{card.name}"): card.read_bytes()
        for card in _own_cards(found, options)
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


def _with_cards(place: Path, found: runs.Run, options: Wanted) -> Path:
    """Puts the cards into a folder; where ``card.md`` is its README, with results for hubs."""
    whole = options.as_ in ("diffusers", "transformers")
    for card in _own_cards(found, options):
        if card.suffix == ".json" or not whole:
            write_atomically(place / card.name, card.read_bytes())
        if card.suffix == ".json" and whole:
            _write_results(place, card)
    return place


def _write_results(place: Path, card: Path) -> None:
    """Writes the results of a card; those of before format 2 have none for hubs."""
    from efface.reports.card_text import eval_results
    from efface.reports.publishing import RESULTS

    values = parse_json(card.read_bytes(), str(card))
    text = eval_results(values) if "shown" in values else ""
    if text:
        write_atomically(place / RESULTS, text.encode())


def _own_cards(found: runs.Run, options: Wanted) -> list[Path]:
    """Finds the run's cards, if what is exported is what they measured."""
    from efface.exchange.cards import cards_of

    return [] if _unmeasured(found, options) else cards_of(found.folder, found.delta.id)[0]


def _unmeasured(found: runs.Run, options: Wanted) -> str:
    """Says in what an export is not what the run's cards measured; empty where it is."""
    if options.scale != 1:
        return f"{options.scale:g} times the change"
    if options.rank is not None:
        return f"the change cut to rank {options.rank}"
    if found.delta.gate is not None and options.as_ != "spm":
        return "the change without its gate"
    if found.delta.provenance.parents and options.as_ in _ALONE:
        return "the last request's change alone"
    return ""


def _left_out(found: runs.Run, options: Wanted) -> str:
    """Says which cards are not shipped, as they are of another delta or measured something else."""
    from efface.exchange.cards import cards_of

    own, others = cards_of(found.folder, found.delta.id)
    differs = _unmeasured(found, options)
    if others:
        return f"; left out {_names(others)}, which are of another delta: evaluate the run again"
    if own and differs:
        return f"; left out {_names(own)}, whose numbers are not of this: it is {differs}"
    return ""


def _names(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files)


def _lora(job: Job, *, writer: str) -> str:
    from efface.exchange import lora_files, spm_files
    from efface.exchange.low_rank import layers_of
    from efface.hosts.components import TEXT_KEYS

    text_only = job.delta.patches.keys() <= TEXT_KEYS.keys()
    host = host_for(job.model, "uce", job.output, job.options.placed, pictures=not text_only)
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


def _comfyui(job: Job) -> str:
    from efface.exchange.comfyui import write_comfyui
    from efface.exchange.low_rank import every_network
    from efface.hosts.components import TEXT_KEYS

    text_only = job.delta.patches.keys() <= TEXT_KEYS.keys()
    host = host_for(job.model, "uce", job.output, job.options.placed, pictures=not text_only)
    scale, rank = job.options.scale, job.options.rank
    networks = every_network(job.delta, host, scale=scale, rank=rank)
    write_comfyui(networks, job.place, job.facts)
    told = [
        f"{each.component}: {len(each.by_module)} layers of rank {each.rank}"
        f" and {len(each.full)} parameters whole"
        for each in networks
    ]
    lost = max(each.lost for each in networks)
    return (
        f"{'; '.join(told)}; {f'{lost:.2%} of the change is lost' if lost else 'nothing is lost'}"
    )


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
    own = _own_cards(job.found, job.options)
    text = next((card.read_text("utf-8") for card in own if card.name == "card.md"), None)
    # A folder with the edit in its weights is a model of its own, and no adapter.
    return text and text.replace("\nbase_model_relation: adapter\n", _WHOLE, 1)


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
    "comfyui": _comfyui,
    "spm": partial(_lora, writer="write_spm"),
    "adapter": _adapter,
    "module": _module,
}
