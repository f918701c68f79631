"""``efface hardest``: what is hardest to forget of pictures, classes or prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from efface import registry
from efface.cli.asking import Placed
from efface.cli.shell import Repeated, parse, settings_from
from efface.errors import BadRequest
from efface.workbench.models import BUNDLED, is_bundled, load_host

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.cli.output import Output
    from efface.contracts import Candidates
    from efface.selection.forget_sets import ForgetSet

__all__ = ["FIGURE", "PAGE", "RESULT", "HardestOptions", "run"]

RESULT, PAGE, FIGURE = "forget_set.json", "index.html", "losses.png"
_SHOWN, _NEIGHBOURS = 12, 4
_PICTURES_A_PROMPT, _STEPS, _GUIDANCE = 2, 15, 3.0
_DESCENT, _RETRAINING = "sign_descent", "retraining"


@dataclass(frozen=True, kw_only=True)
class HardestOptions(Placed):
    """Among what to search, how it is erased, and where the answer goes."""

    out: Path
    """Folder for forget_set.json, index.html and losses.png; new or empty."""
    prompts: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Search among nouns in styles of the bundled generator, instead of pictures."""
    data: str | None = None
    """Labelled pictures, as for efface erase --retain-data; a bundled classifier has its own."""
    model: str = BUNDLED
    """A classifier: icons-vit, or a folder of transformers. With --prompts: emoji."""
    by: Literal["picture", "class"] = "picture"
    """Of pictures: whether single ones or whole classes are sought."""
    size: int = 0
    """How many are in the set; 0: a tenth of all."""
    candidates: int = 0
    """Search among so many, drawn at random; 0: among 100 prompts, or all pictures."""
    search: str = "worst_case"
    """How (efface list searches)."""
    search_settings: Repeated = ()
    """Another setting of the search, as name=value; repeat for several."""
    method: str | None = None
    """What erases: a method by name; by default uce for prompts. For pictures also sign_descent,
    the default, or retraining."""
    method_settings: Repeated = ()
    """Another setting of what erases, as name=value; repeat for several."""
    easiest: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Search for the easiest to forget instead of the hardest."""
    seed: int = 0
    """Of all draws."""


@dataclass(frozen=True, eq=False)
class _Task:
    """Candidates, and how they are shown."""

    candidates: Candidates
    picture: Callable[[int], Float[Tensor, "3 h w"]]
    features: Float[Tensor, "n dim"]
    """One row a candidate, of length 1."""


def run(arguments: list[str], output: Output) -> int:
    """Searches, then writes the set, the figure and the page."""
    options = parse(
        HardestOptions,
        arguments,
        prog="efface hardest",
        description="Finds what is hardest to forget, and shows it with its neighbours.",
    )
    _check(options)
    one = _built("searches", options.search, options.search_settings, easiest=options.easiest)
    from efface.randomness import derive

    task = _prompts(options, output) if options.prompts else _pictures(options, output)
    size = options.size or max(1, len(task.candidates) // 10)
    with output.progress(f"searching among {len(task.candidates)} with {one.name}") as bar:
        found = one.search(
            task.candidates, size, generator=derive(options.seed, "search"), monitor=bar
        )
    _write(options, task, found, asdict(one))
    _tell(options, task, found, output)
    return 0


def _check(options: HardestOptions) -> None:
    """Refuses what cannot be meant, before a model is loaded.

    Raises:
        BadRequest: prompts of another model or with data; pictures without a classifier; a size,
            number of candidates or place that is none.
    """
    if options.prompts and not (is_bundled(options.model) and options.data is None):
        raise BadRequest(
            "--prompts searches the bundled generator's own words; leave out --data, and --model "
            "unless it is a bundled generator"
        )
    if not options.prompts and is_bundled(options.model):
        raise BadRequest(
            f"'{options.model}' draws pictures; give --prompts to search its prompts, or --model "
            "with a classifier such as icons-vit"
        )
    if options.prompts and options.by == "class":
        raise BadRequest("--by class is for pictures; prompts are sought one by one")
    if options.size < 0 or options.candidates < 0:
        raise BadRequest(
            f"--size is {options.size} and --candidates is {options.candidates}; neither may be "
            "negative"
        )
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise BadRequest(f"{options.out} is there and not empty; choose another --out")


def _built(kind: registry.Kind, name: str, given: Sequence[str], **more: Any) -> Any:
    """Makes a search or method with settings that were typed."""
    found = registry.load(kind, name)
    preset = "emoji" if "emoji" in found.presets() else None
    preset = preset or ("icons" if "icons" in found.presets() else None)
    default = registry.build(kind, name, preset=preset, **more)
    return settings_from(found, _flags(given), default, source=name)


def _flags(given: Sequence[str]) -> list[str]:
    """Turns ``name=value`` into flags.

    Raises:
        BadRequest: one has no value.
    """
    flags = []
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BadRequest(f"'{text}' is no setting; write name=value")
        spelled = name.replace("_", "-")
        if value in ("True", "False", "true", "false"):
            flags.append(f"--{spelled}" if value.lower() == "true" else f"--no-{spelled}")
        else:
            flags.append(f"--{spelled}={value}")
    return flags


def _prompts(options: HardestOptions, output: Output) -> _Task:
    """Draws pictures of prompts, and lets a method erase some of them."""
    import torch

    from efface.bundled.judge import EmojiJudge
    from efface.bundled.pairs import pairs, request_for
    from efface.randomness import derive
    from efface.revival.drawing import decoded
    from efface.selection.prompts import PromptCandidates, draw_latents

    every = pairs(options.candidates or 100)
    eraser = _built("methods", options.method or "uce", options.method_settings)
    pipe = load_host(options.model, output, options)
    names = [pair.name for pair in every]
    seeds = tuple(range(options.seed, options.seed + _PICTURES_A_PROMPT))
    with output.progress(f"drawing {len(names)} prompts"):
        drawn = draw_latents(pipe, names, seeds, steps=_STEPS, guidance=_GUIDANCE)
        shown = decoded(pipe, drawn.latents[:, 0])
    candidates = PromptCandidates(
        pipe,
        names,
        drawn,
        eraser,
        lambda chosen: request_for([every[place] for place in chosen]),
        times=(100, 300, 500, 700, 900),
        generator=derive(options.seed, "noise"),
    )
    features = EmojiJudge().features(shown).flatten(1)
    return _Task(candidates, lambda place: shown[place], torch.nn.functional.normalize(features))


def _pictures(options: HardestOptions, output: Output) -> _Task:
    """Opens labelled pictures, and lets a classifier forget some of them.

    Raises:
        BadRequest, MissingInput: there are no pictures, or not so many.
    """
    import torch

    from efface.data.pictures import Part, numbered_as
    from efface.data.places import open_pictures
    from efface.randomness import derive
    from efface.selection.pictures import PictureCandidates

    place = options.data or (f"{options.model}:train" if options.model in registry.VISION else None)
    if place is None:
        raise BadRequest("which pictures? give --data FOLDER with a folder for each class")
    lower = _lower(options)
    model = load_host(options.model, output, options)
    whole = numbered_as(open_pictures(place), model.labels)
    if options.candidates > len(whole):
        raise BadRequest(f"--candidates is {options.candidates}, and there are {len(whole)}")
    order = torch.randperm(len(whole), generator=derive(options.seed, "candidates"))
    some = order[: options.candidates or len(whole)].sort().values
    pictures = Part(whole, some)
    candidates = PictureCandidates(model, pictures, lower, by=options.by)
    with output.progress("looking at every picture once"):
        rows = candidates.features()
    if options.by == "picture":
        return _Task(candidates, lambda number: pictures.read([number])[0], rows)
    first = [int((pictures.labels == n).nonzero()[0]) for n in range(len(candidates))]
    means = torch.zeros(len(candidates), rows.shape[1]).index_add_(0, pictures.labels, rows)
    normed = torch.nn.functional.normalize(means)
    return _Task(candidates, lambda number: pictures.read([first[number]])[0], normed)


def _lower(options: HardestOptions) -> Any:
    from efface.selection.lower import ByMethod, Retraining, SignDescent

    own: dict[str, Any] = {_DESCENT: SignDescent, _RETRAINING: Retraining}
    name = options.method or _DESCENT
    if name in own:
        flags = _flags(options.method_settings)
        return settings_from(own[name], flags, own[name](), source=name)
    eraser = _built("methods", name, options.method_settings)
    return ByMethod(eraser, by_class=options.by == "class")


def _write(
    options: HardestOptions, task: _Task, found: ForgetSet, settings: dict[str, Any]
) -> None:
    from efface.files import write_atomically
    from efface.reports.hardest import exhibits, hardest_page, losses_figure
    from efface.selection.pictures import nearest

    names, groups = task.candidates.names, _groups(found)
    near: dict[int, list[int]] = {}
    for which in groups.values():
        found_near = nearest(task.features, which, _NEIGHBOURS).tolist()
        near |= dict(zip(which.tolist(), found_near, strict=True))
    told = {
        "model": options.model,
        "data": options.data,
        "by": "prompt" if options.prompts else options.by,
        "search": options.search,
        "settings": settings,
        "method": options.method or ("uce" if options.prompts else _DESCENT),
        "seed": options.seed,
        **found.told(names),
        "neighbours": {names[place]: [names[n] for n in own] for place, own in near.items()},
    }
    figure = losses_figure(found)
    shown = [
        (title, exhibits(found.losses, names, which.tolist(), [near[n] for n in which.tolist()]))
        for title, which in groups.items()
    ]
    page = hardest_page(_title(options), _sentences(options, found), shown, task.picture, figure)
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / RESULT, (json.dumps(told, indent=1) + "\n").encode())
    write_atomically(options.out / FIGURE, figure)
    write_atomically(options.out / PAGE, page.encode())


def _groups(found: ForgetSet) -> dict[str, Tensor]:
    """Gives what the page shows: the two ends of all losses."""
    order = found.losses.nan_to_num(nan=float(found.losses.nanmean())).argsort(stable=True)
    count = min(_SHOWN, len(order) // 2)
    hardest = "Hardest to forget: a low loss although they were erased"
    easiest = "Easiest to forget: a high loss once they were erased"
    return {hardest: order[:count], easiest: order.flip(0)[:count]}


def _title(options: HardestOptions) -> str:
    what = "prompts" if options.prompts else {"class": "classes"}.get(options.by, "pictures")
    return f"What is hard to forget: {what} of {options.model}"


def _sentences(options: HardestOptions, found: ForgetSet) -> list[str]:
    end = "the set no longer changed" if found.stable else "all rounds were done"
    kind = "easiest" if found.easiest else "hardest"
    return [
        f"{options.search} found the {len(found.chosen)} {kind} of {len(found.losses)} in "
        f"{len(found.rounds)} rounds; it ended since {end}.",
        "Small pictures under each are its nearest neighbours: what has many of them is known from "
        "the others, also without itself.",
    ]


def _tell(options: HardestOptions, task: _Task, found: ForgetSet, output: Output) -> None:
    names = task.candidates.names
    shown = found.chosen[:_SHOWN].tolist()
    output.say(*_sentences(options, found)[:1])
    output.say(*(f"  {found.losses[place]:9.4g}  {names[place]}" for place in shown))
    output.say(f"wrote {RESULT}, {FIGURE} and {PAGE} to {options.out}")
    output.result({"out": str(options.out), **found.told(names)})
