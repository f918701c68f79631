"""``efface import FILE``: another tool's edit as a run, to measure, verify and export."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from efface.cli import runs
from efface.cli.folder import claimed, folders_of
from efface.cli.hosts import BUNDLED, Wanted, load_host, request_for
from efface.cli.shell import Repeated, Shared, parse
from efface.concepts import ConceptKind

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.exchange.imports import Imported

__all__ = ["Import", "run"]


@dataclass(frozen=True, kw_only=True)
class Import(Shared):
    """What to import, and what it is said to be."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """LoRA, edited weights (safetensors or pickle), or folder of an edited network or pipeline."""
    concept: Repeated = ()
    """What it is said to erase; repeat for several. This is what will be measured."""
    out: Path
    """Folder of the run."""
    model: str = BUNDLED
    """The base that the edit was made for: the bundled model, a diffusers folder, or a hub id."""
    kind: ConceptKind | None = None
    """What the names are; by default an object, or what the bundled model knows the word as."""
    keep: Repeated = ()
    """What should have stayed; repeat for several."""
    part: (
        Literal["unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"]
        | None
    ) = None
    """The one network to read; by default all that the file is of."""
    gate: Literal["linear", "official", "none"] = "linear"
    """How SPM's membranes open: for prompts like those erased, squared as released, or always."""
    unconditional: Literal["own", "same"] = "own"
    """Under guidance: whether the prediction without the prompt opens SPM's membranes by its own
    text or as the prompt does, as released."""
    overwrite: bool = False
    """Replace the run that the folder holds."""


def run(arguments: list[str], output: Output) -> int:
    """Reads the file as a delta against its base and writes a run folder."""
    about = "Reads another tool's edit as a run."
    options = parse(Import, arguments, prog="efface import", description=about)
    request = request_for(
        options.model, Wanted(concepts=options.concept, kind=options.kind, keep=options.keep)
    )
    from efface.deltas.recording import peak_bytes
    from efface.deltas.results import ErasureResult
    from efface.exchange.imports import import_delta
    from efface.runs.checks import inspect

    protected = [options.source, *folders_of(options.model)]
    with claimed(options.out, overwrite=options.overwrite, protected=protected) as folder:
        pipe = load_host(options.model, output)
        began = time.perf_counter()
        made = import_delta(
            options.source,
            pipe,
            request,
            part=options.part,
            gate=options.gate,
            unconditional=options.unconditional,
        )
        result = ErasureResult(
            delta=made.delta,
            seconds=time.perf_counter() - began,
            peak_bytes=peak_bytes(pipe),
            diagnostics=inspect(pipe, made.delta, request),
        )
        recipe = runs.Recipe(
            model=options.model,
            method="import",
            preset=None,
            settings=made.delta.provenance.settings,
            seed=0,
            request=request,
        )
        with folder.staged() as staging:
            result.save(staging)
            runs.extend_record(staging, recipe)
    tensors = len(made.delta.patches)
    output.say(f"read {options.source} as {made.layout}: {tensors} tensors changed")
    if made.unused:
        some = ", ".join(made.unused[:3])
        output.say(f"{len(made.unused)} keys of it are of nothing that is read: {some} ...")
    output.say(*made.notes)
    if made.layout != "edited weights":
        output.say(_opening(made))
    output.say(f"wrote {options.out}; measure it with: efface evaluate {options.out}")
    told = {"layout": made.layout, "tensors": tensors, "unused": list(made.unused)}
    told |= {"opens_for": list(made.opens_for)}
    output.result({"run": str(options.out), "delta": made.delta.id, **told})
    return 0


def _opening(made: Imported) -> str:
    """Says on which prompts it acts."""
    if made.opens_for:
        return f"its membranes open as far as a prompt is like: {', '.join(made.opens_for)}"
    if made.layout == "SPM":
        return "it acts on every prompt, as --gate none asks or its header says"
    return "it acts on every prompt: its header names no erased prompts, so it gets no gate"
