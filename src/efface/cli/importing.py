"""``efface import FILE``: another tool's edit as a run, to measure, verify and export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from efface.cli.asking import Asking, Placed
from efface.cli.shell import parse
from efface.errors import MissingInput
from efface.runs.recipe import ImportRecipe
from efface.workbench import making
from efface.workbench.models import load_host, refuse_readers

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Import", "recipe_for", "run"]

ABOUT = "Reads another tool's edit, or a delta that came without its run, as a run."


@dataclass(frozen=True, kw_only=True)
class Import(Placed, Asking):
    """What to import, what it is said to erase, and from which base; that will be measured."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """LoRA, edited weights (safetensors or pickle), folder of an edited network or pipeline, or a
    delta of efface."""
    out: Path
    """Folder of the run."""
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


def recipe_for(options: Import) -> ImportRecipe:
    """Writes down what is read, and as what.

    Raises:
        BadRequest: no concept is named, or the request makes no sense.
    """
    refuse_readers(options.model, "import")
    return ImportRecipe(
        model=options.model,
        request=options.request(),
        file=str(options.source),
        part=options.part,
        gate=options.gate,
        unconditional=options.unconditional,
        **options.recorded(),
    )


def run(arguments: list[str], output: Output) -> int:
    """Reads the file as a delta against its base and writes a run folder."""
    options = parse(Import, arguments, prog="efface import", description=ABOUT)
    recipe = recipe_for(options)
    if not options.source.exists():
        raise MissingInput(f"there is no file or folder {options.source} to import")
    with making.open_new_run(options.out, recipe, overwrite=options.overwrite) as folder:
        result = making.perform(recipe, load_host(options.model, output, options), output)
        making.write_run(folder, result)
    facts = {name: result.diagnostics[name] for name in ("layout", "unused", "opens_for", "notes")}
    tensors = len(result.delta.keys)
    output.say(f"read {options.source} as {facts['layout']}: {tensors} tensors changed")
    if unused := facts["unused"]:
        first = ", ".join(unused[:3])
        output.say(f"{len(unused)} keys of it are of nothing that is read: {first} ...")
    output.say(*facts["notes"])
    if facts["layout"] not in ("edited weights", "a delta of efface"):
        output.say(_opening(facts))
    output.say(f"wrote {options.out}; measure it with: efface evaluate {options.out}")
    output.result({"run": str(options.out), "delta": result.delta.id, "tensors": tensors, **facts})
    return 0


def _opening(facts: Mapping[str, Any]) -> str:
    """Says on which prompts it acts."""
    if facts["opens_for"]:
        return f"its membranes open as far as a prompt is like: {', '.join(facts['opens_for'])}"
    if facts["layout"] == "SPM":
        return "it acts on every prompt, as --gate none asks or its header says"
    return "it acts on every prompt: its header names no erased prompts, so it gets no gate"
