"""Models by their names: the bundled one, folders and hub ids, loaded quietly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from efface import registry
from efface.concepts import ErasureRequest
from efface.deltas.results import RECORD
from efface.errors import BadModel, BadRequest

if TYPE_CHECKING:
    import torch

    from efface.runs.recipe import Recipe
    from efface.workbench.telling import Telling

__all__ = [
    "ANYWHERE",
    "BUNDLED",
    "Place",
    "does_not_fit",
    "folder_of_model",
    "host_for",
    "is_bundled",
    "is_whole",
    "load_host",
    "methods_for",
    "quiet_loading",
    "refuse_readers",
    "unknown_words",
]

BUNDLED = "emoji"
"""The model that commands take when none is named."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a model is put, and in what it computes."""

    device: str = "auto"
    """Where the model runs, such as cpu, cuda, cuda:1 or mps; auto: CUDA where there is one, else
    an Apple GPU (mps), else the CPU."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """What its networks compute in; auto: float32. Methods that train need float32."""
    config: Path | None = None
    """For a model in a single .safetensors file: a diffusers folder of the same kind of model,
    whose configs and tokenizers are taken; its weights are not read."""

    @property
    def whole(self) -> bool:
        """Whether something was asked that a model which is read from its files cannot do."""
        return (self.device, self.dtype) != ("auto", "auto")

    def recorded(self) -> dict[str, Any]:
        """Gives what a recipe says of it: what was asked, and nothing where it was not."""
        asked = {"device": self.device, "dtype": self.dtype}
        found = {name: value for name, value in asked.items() if value != "auto"}
        return found if self.config is None else {**found, "config": str(self.config)}

    def or_recorded(self, recipe: Recipe, model: str, *, config_only: bool = False) -> Place:
        """Fills in what a run was made with and was not asked for now.

        Args:
            recipe: of the run.
            model: what is loaded; configs are taken for single files alone.
            config_only: leaves device and type to this machine.
        """
        config = self.config
        if config is None and recipe.config and Path(model).is_file():
            config = Path(recipe.config)
        if config_only:
            return Place(device=self.device, dtype=self.dtype, config=config)
        device = recipe.device if self.device == "auto" and recipe.device else self.device
        asked: Any = recipe.dtype if self.dtype == "auto" and recipe.dtype else self.dtype
        return Place(device=device, dtype=asked, config=config)


ANYWHERE = Place()
"""The best device that there is, in float32."""


def is_bundled(model: str) -> bool:
    """Says whether a model comes with the package."""
    return model in registry.BUNDLED


def is_whole(model: Any) -> bool:
    """Tells a model that can draw or answer from the text side of one, as `host_for` may give."""
    from efface.hosts.streaming import StreamedModel

    return not isinstance(model, StreamedModel)


def load_host(name: str, output: Telling, placed: Place = ANYWHERE) -> Any:
    """Loads a model by its name on the command line, and silences its own progress bars.

    Raises:
        BadRequest: there is no such device here.
        BadModel: no such model, it is a run, its files are missing, cut short or of the wrong
            shape, or it draws from pictures.
    """
    import efface
    from efface.hosts.pipelines import text_to_image

    _refuse_run(name)
    device, dtype = _device(placed.device), _dtype(placed.dtype)
    with output.progress(f"loading {name}"), quiet_loading():
        model = efface.load(name, dtype=dtype, device=device, config=placed.config)
        if not registry.reads_pictures(name):
            model = text_to_image(model)
            model.set_progress_bar_config(disable=True)
    if placed.whole or device.type != "cpu":
        output.say(f"{name} runs on {device} in {str(dtype).removeprefix('torch.')}")
    return model


def _refuse_run(name: str) -> None:
    if (Path(name) / RECORD).is_file() and not (Path(name) / "model_index.json").exists():
        raise BadModel(
            f"{name} is a run of efface and no model; draw with it: efface apply {name} --prompt "
            "'...', or give as --model what it was made from"
        )


def _device(name: str) -> torch.device:
    """Finds a device by its name on the command line.

    Raises:
        BadRequest: there is no such device here.
    """
    import torch

    if name == "auto":
        there = {"cuda": torch.cuda, "mps": torch.backends.mps}
        found = (kind for kind, backend in there.items() if backend.is_available())
        return torch.device(next(found, "cpu"))
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise BadRequest(
            f"--device is {name}, which is not there ({reason}); give --device cpu, or another"
        ) from error
    if device.type == "meta":
        raise BadRequest("--device is meta, which holds no values; give --device cpu, or another")
    return device


def _dtype(name: str) -> torch.dtype:
    import torch

    found: torch.dtype = torch.float32 if name == "auto" else getattr(torch, name)
    return found


def host_for(
    name: str, method: str, output: Telling, placed: Place = ANYWHERE, *, pictures: bool
) -> Any:
    """Gives what a method works on: a folder's text side alone, if that is enough.

    Args:
        name: the model, as on the command line.
        method: the name of an eraser.
        output: where progress is shown.
        placed: where the whole model is put, if it is loaded; asking for a place loads it.
        pictures: whether pictures will be drawn, which needs the whole pipeline.

    Raises:
        BadModel: no such model, or its files are missing, cut short or of the wrong shape.
    """
    _refuse_run(name)
    folder = not is_bundled(name) and Path(name).is_dir()
    known = {entry.name for entry in registry.entries("methods")}
    streams = all(
        stage in known and getattr(registry.load("methods", stage), "streams", False)
        for stage in method.split("+")
    )
    if pictures or placed.whole or not folder or not streams or registry.reads_pictures(name):
        return load_host(name, output, placed)
    from transformers.utils import logging

    from efface.hosts.streaming import stream

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with output.progress(f"opening {name}"):
            return stream(name)
    finally:
        logging.set_verbosity(level)


def does_not_fit(name: str, placed: Place = ANYWHERE) -> str | None:
    """Says why a folder's whole model cannot be drawn with here; None where it can, or may.

    A method that reads a folder's text side alone needs less than the model does.
    """
    from efface.hosts.shards import stored_tensors
    from efface.memory import free_bytes

    if not Path(name).is_dir():
        return None
    device = _device(placed.device)
    free = free_bytes(device)
    parts = {file.parent for file in Path(name).glob("*/*.safetensors")}
    tensors = (tensor for part in parts for tensor in stored_tensors(part).values())
    needed = sum(tensor.numel for tensor in tensors) * _dtype(placed.dtype).itemsize
    if free is None or needed <= free:
        return None
    return (
        f"the whole model takes {needed / 1e9:.1f} GB on {device}, where {free / 1e9:.1f} GB are "
        "free, so no picture was drawn"
    )


def refuse_readers(model: str, verb: str) -> None:
    """Refuses a model that reads pictures where one that draws is needed.

    Raises:
        BadRequest: naming the verb and what there is for such models.
    """
    if registry.reads_pictures(model):
        raise BadRequest(
            f"{model} reads pictures and draws none, so efface {verb} has nothing to do with it; "
            "such models have erase, evaluate, verify, rerun, revoke, export and plan"
        )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences the libraries' own bars and hints: standard error holds one bar or one error."""
    from transformers.utils import logging as transformers

    level = transformers.get_verbosity()
    transformers.set_verbosity_error()
    transformers.disable_progress_bar()
    from diffusers.utils import logging as diffusers

    diffusers.disable_progress_bar()
    warned = diffusers.get_verbosity()
    diffusers.set_verbosity_error()
    try:
        yield
    finally:
        diffusers.set_verbosity(warned)
        diffusers.enable_progress_bar()
        transformers.enable_progress_bar()
        transformers.set_verbosity(level)


def methods_for(model: str) -> list[str]:
    """Lists the methods that edit a model: of one that reads pictures those for its very kind.

    Raises:
        BadModel: a folder of a model that reads pictures holds none that efface edits.
    """
    from efface.hosts.families import FAMILIES
    from efface.hosts.vision_families import kind_of

    kinds = frozenset({kind_of(model)} if registry.reads_pictures(model) else FAMILIES)
    names = [entry.name for entry in registry.entries("methods")]
    return [name for name in names if registry.load("methods", name).families & kinds]


def unknown_words(made: ErasureRequest) -> list[str]:
    """Lists the concepts that the bundled model was never taught, with what may be meant."""
    from efface.bundled import vocabulary

    concepts = [*(erasure.concept for erasure in made.erasures), *made.keep]
    unknown = [one.name for one in concepts if vocabulary.canonical(one.name) is None]
    meant = {name: vocabulary.near(name) for name in unknown}
    return [f"{name} (did you mean {word}?)" if word else name for name, word in meant.items()]


def folder_of_model(model: str) -> Path:
    """Gives the folder of a model on the command line, for what works on files.

    Raises:
        BadRequest: it is a hub id or nothing at all.
    """
    if model in registry.VISION:
        return Path(registry.bundled(model).folder(model))
    if is_bundled(model):
        if hasattr(registry.bundled(model), "finish"):
            raise BadRequest(
                f"{model} is not a folder: it is completed when it is loaded; write one with "
                f"efface.load('{model}').save_pretrained(FOLDER) and give that as --model"
            )
        return Path(registry.bundled(model).pipeline_folder())
    if Path(model).is_dir():
        return Path(model)
    raise BadRequest(
        f"{model} is not a folder here, and this reads a folder's files; give --model FOLDER with "
        "the base model"
    )
