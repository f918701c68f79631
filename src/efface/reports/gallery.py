"""Pictures before and after as cards that are filtered, sorted and opened without any script."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from markupsafe import Markup

from efface.contracts import Role, Sample
from efface.evaluation.record import Evaluation
from efface.evaluation.samples import GOING, ROLES, in_role
from efface.reports import wording
from efface.reports.figures import chosen
from efface.reports.model_words import words_for

__all__ = ["Card", "Finding", "Gallery", "Score", "Sort", "Wall", "embedded", "gallery"]

Finding: TypeAlias = Literal["as wanted", "still there", "may be left", "lost", "not scored"]

BUDGET = 2_500_000
"""Bytes of pictures on a page, about; a page stays under 5 MB."""
_FITS = ((64, 512), (64, 320), (64, 160), (24, 160), (8, 160), (8, 96))
"""Pairs a role and largest side of a picture, tried in turn until pictures are in the budget."""
_PROBES = 6


@dataclass(frozen=True)
class Score:
    """What one instrument answered about one sample's pictures; empty where it had no answer."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """A picture before and after, as data URIs; after is empty when nothing was edited."""

    id: str
    prompt: str
    seed: int
    before: str
    after: str
    finding: Finding | None
    """None where nothing was edited."""
    classes: str
    """By which it is filtered."""
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Wall:
    """The cards of one role."""

    role: Role
    label: str
    explained: str
    cards: tuple[Card, ...]
    drawn: int
    """Pictures in this role, of which the cards are some."""


@dataclass(frozen=True)
class Sort:
    """An order of the cards, as the value of a choice and its label."""

    id: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Everything that the page needs to show pictures."""

    walls: tuple[Wall, ...] = ()
    findings: tuple[Finding, ...] = ()
    styles: tuple[str, ...] = ()
    sorts: tuple[Sort, ...] = ()
    rules: Markup = field(default_factory=Markup)
    """Style rules of this page's own filters and orders; made of numbers only."""


def gallery(evaluation: Evaluation) -> Gallery:
    """Lays out as many pictures of every role as a page may hold."""
    most, side = _fitting(evaluation)
    shown = {role: chosen(evaluation, role, most) for role in ROLES}
    samples = [sample for role in ROLES for sample in shown[role]]
    if not samples:
        return Gallery()
    places = {sample.id: n for n, sample in enumerate(evaluation.samples)}
    findings = {sample.id: _finding(evaluation, sample, places[sample.id]) for sample in samples}
    styles = tuple(dict.fromkeys(one.style.name for one in samples if one.style))
    ids = {sample.id: f"p{n}" for n, sample in enumerate(samples)}
    walls = []
    for role, own in shown.items():
        cards = tuple(
            _card(
                evaluation,
                sample,
                side,
                place=places[sample.id],
                name=ids[sample.id],
                finding=findings[sample.id],
                styles=styles,
            )
            for sample in own
        )
        if cards:
            drawn = len(in_role(evaluation.samples, role))
            explained = words_for(evaluation).role(role)
            walls.append(Wall(role, wording.ROLES[role], explained, cards, drawn))
    orders = list(_orders(evaluation, samples, places))
    occurring = tuple(dict.fromkeys(one for one in findings.values() if one))
    return Gallery(
        walls=tuple(walls),
        findings=occurring if len(occurring) > 1 else (),
        styles=styles if len(styles) > 1 else (),
        sorts=tuple(sort for sort, _ in orders),
        rules=_rules(walls, styles, [ids[one.id] for one in samples], [o for _, o in orders]),
    )


def embedded(path: Path, side: int) -> str:
    """Gives a picture as a data URI, scaled down to a largest side; large ones as WebP."""
    kind, content = _encoded(path, side)
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")


def _encoded(path: Path, side: int) -> tuple[str, bytes]:
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((side, side))
    kind = "webp" if max(small.size) > 128 else "png"
    if kind == "webp":
        small.save(buffer, format="WEBP", quality=88)
    else:
        small.save(buffer, format="PNG", optimize=True)
    return kind, buffer.getvalue()


def _fitting(evaluation: Evaluation) -> tuple[int, int]:
    """Chooses how many pictures a role shows and how large, from the weight of a few."""
    for most, side in _FITS:
        samples = [one for role in ROLES for one in chosen(evaluation, role, most)]
        paths = [
            path
            for sample in samples
            for edited in (False, True)
            if (path := evaluation.picture(sample, edited=edited))
        ]
        probes = paths[:: max(1, len(paths) // _PROBES)]
        if not probes:
            break
        mean = sum(len(_encoded(path, side)[1]) for path in probes) / len(probes)
        if len(paths) * mean * 4 / 3 <= BUDGET:
            return most, side
    return _FITS[-1]


def _card(
    evaluation: Evaluation,
    sample: Sample,
    side: int,
    *,
    place: int,
    name: str,
    finding: Finding | None,
    styles: Sequence[str],
) -> Card:
    before, after = (
        "" if path is None else embedded(path, side)
        for path in (evaluation.picture(sample, edited=edited) for edited in (False, True))
    )
    classes = [] if finding is None else ["is-" + _slug(finding)]
    if sample.style:
        classes.append(f"style-{styles.index(sample.style.name)}")
    return Card(
        id=name,
        prompt=sample.prompt,
        seed=sample.seed,
        before=before,
        after=after,
        finding=finding,
        classes=" ".join(classes),
        scores=tuple(_scores(evaluation, place)),
    )


def _scores(evaluation: Evaluation, place: int) -> Iterator[Score]:
    for metric in _metrics(evaluation):
        before, after = (_answer(evaluation, metric, when, place) for when in ("before", "after"))
        if not (math.isnan(before) and math.isnan(after)):
            yield Score(wording.named(metric), _told(before), _told(after))


def _metrics(evaluation: Evaluation) -> tuple[str, ...]:
    names = (name.removesuffix(" before").removesuffix(" after") for name in evaluation.answers)
    return tuple(dict.fromkeys(names))


def _answer(evaluation: Evaluation, metric: str, when: str, place: int) -> float:
    column = evaluation.answers.get(f"{metric} {when}", ())
    return column[place] if place < len(column) else math.nan


def _told(answer: float) -> str:
    """Writes a picture's score; every sample's own stands at the end of the page."""
    if math.isnan(answer):
        return ""
    return "under 0.001" if 0 < abs(answer) < 1e-3 else f"{answer:.3g}"


def _finding(evaluation: Evaluation, sample: Sample, place: int) -> Finding | None:
    """Says what became of one picture, by the rate that decides the outcome and by leftovers."""
    if evaluation.after is None or evaluation.model_kind != "generator":
        return None  # What recognisers say is written into their pictures.
    before, after = (
        _answer(evaluation, evaluation.main_metric, when, place) for when in ("before", "after")
    )
    if math.isnan(after):
        return "not scored"
    threshold = evaluation.judge.threshold
    if sample.role in GOING:
        if after >= threshold:
            return "still there"
        finer = evaluation.leftover_judge
        left = _answer(evaluation, "leftover", "after", place)
        return "may be left" if finer and left >= finer.threshold else "as wanted"
    return "lost" if before >= threshold > after else "as wanted"


def _slug(finding: str) -> str:
    return finding.replace(" ", "-")


def _orders(
    evaluation: Evaluation, samples: Sequence[Sample], places: dict[str, int]
) -> Iterator[tuple[Sort, list[int]]]:
    """Ranks the cards by each score after the edit, highest first; the unscored come last."""
    when = "before" if evaluation.after is None else "after"
    for n, metric in enumerate(_metrics(evaluation)):
        found = [_answer(evaluation, metric, when, places[one.id]) for one in samples]
        if all(math.isnan(one) for one in found):
            continue
        for letter, sign, word in (("h", -1.0, "highest"), ("l", 1.0, "lowest")):
            keys = [math.inf if math.isnan(one) else sign * one for one in found]
            ranked = sorted(range(len(found)), key=keys.__getitem__)
            ranks = [0] * len(found)
            for rank, at in enumerate(ranked):
                ranks[at] = rank
            yield Sort(f"{letter}{n}", f"{wording.named(metric)} {when}, {word} first"), ranks


def _rules(
    walls: Sequence[Wall], styles: Sequence[str], ids: Sequence[str], orders: Sequence[list[int]]
) -> Markup:
    """Writes what the filters hide and how the orders sort; nothing in it is others' text."""
    rules = [f"body:has(#role-{wall.role}:checked) .wall:not(.of-{wall.role})" for wall in walls]
    picked = [("finding-" + name, "is-" + name) for name in map(_slug, get_args(Finding))]
    picked += [(f"style-{n}", f"style-{n}") for n in range(len(styles))]
    for choice, kind in picked:
        checked = f"body:has(#{choice}:checked)"
        rules += [f"{checked} .look:not(.{kind})", f"{checked} .wall:not(:has(.{kind}))"]
    lines = [",\n".join(rules) + " { display: none; }"]
    # The n-th order's choice has the n-th place among the choices but one, which is "as listed".
    for n in range(len(orders)):
        chosen_order = f"body:has(#sort option:nth-child({n + 2}):checked) .look"
        lines.append(f"{chosen_order} {{ order: var(--o{n}); }}")
    for place, name in enumerate(ids):
        held = ";".join(f"--o{n}:{ranks[place]}" for n, ranks in enumerate(orders))
        if held:
            lines.append(f"#{name}{{{held}}}")
    return Markup("\n".join(lines))
