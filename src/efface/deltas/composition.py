"""Several deltas as one: sums where independent, products where one was made on another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from efface.deltas.delta import Delta
from efface.deltas.empty_prompt import EmptyPrompt, encoders_of
from efface.deltas.gates import Gate, stacked
from efface.deltas.patches import LowRankPatch, Patch, TextMapPatch, added, carried, finite
from efface.deltas.provenance import SKETCH_TOLERANCE, Provenance, sketch_deviation
from efface.deltas.row_maps import RowMap
from efface.errors import BadDelta, BadRequest
from efface.hosts.components import reaches

__all__ = ["compose", "joined_requests", "without"]


def compose(deltas: Sequence[Delta], *, scales: Sequence[float] | None = None) -> Delta:
    """Makes one delta whose effect is that of applying all of them.

    The order does not matter, except that a delta follows its parents. Dense patches add, low-rank
    patches are put side by side, a mix becomes dense, and a text map made on top of other changes
    also acts on those. Patches with a gate keep it; those without stand beside them, ungated. Row
    maps are applied one after the other, in the order of the result's ``parts``.

    Args:
        deltas: at least one; made on the same base or on one another.
        scales: one factor per delta; 1 for all when left out.

    Raises:
        BadDelta: different bases, or a delta without the parent it was made on.
        BadRequest: nothing to compose, the same delta twice, a wrong number of scales, or one that
            is not finite.
    """
    deltas, given = _listed(deltas, "deltas"), _listed(scales, "scales")
    factors = [1.0] * len(deltas) if scales is None else [finite(scale) for scale in given]
    _check(deltas, factors)
    factor_of = {delta.id: factor for delta, factor in zip(deltas, factors, strict=True)}
    ordered = _ordered(deltas)
    _check_bases(ordered)
    always: dict[str, Mapping[str, Patch]] = {}
    maps: dict[str, tuple[RowMap, ...]] = {}
    gated: list[Mapping[str, Patch]] = []
    for delta in ordered:
        scaled = delta.scaled(factor_of[delta.id])
        for key, held in scaled.row_maps.items():
            maps[key] = (*maps.get(key, ()), *held)
        if delta.gate is not None:
            gated.append(scaled.patches)
        plain = scaled.patches if delta.gate is None else scaled.ungated
        beneath = [always[name] for name in _parents_among(delta, ordered)]
        always[delta.id] = _on_top(plain, beneath)
    told, gate, empty = _provenance(ordered, factor_of), _gate(ordered), _empty_prompt(ordered)
    whole = _sum(list(always.values()))
    if gate is None:
        return Delta(patches=whole, provenance=told, empty_prompt=empty, row_maps=maps)
    return Delta(
        patches=_sum(gated),
        provenance=told,
        gate=gate,
        ungated=whole,
        empty_prompt=empty,
        row_maps=maps,
    )


def without(deltas: Sequence[Delta], revoked: str) -> Delta:
    """Makes one delta of several that were made on one another, all but one of them.

    Changes that are added to weights do not depend on what they were added to, so the others are
    what they were. Whether they still do what they did has to be measured: they were made with the
    one that is taken out in force.

    Args:
        deltas: with every parent; see `compose`.
        revoked: id of the one that is taken out.

    Raises:
        BadRequest: none of them has that id, or there is no other.
        BadDelta: see `compose`; or one made on top of it depends on the weights that it met.
    """
    left = [delta for delta in deltas if delta.id != revoked]
    if len(left) == len(deltas) or not left:
        known = ", ".join(delta.id for delta in deltas)
        raise BadRequest(f"{revoked} cannot be taken out of {known}; name one of several")
    for delta in left:
        if revoked in delta.provenance.parents and (kinds := _depending(delta)):
            raise BadDelta(
                f"delta {delta.id} ({delta.provenance.method}) was made on top of {revoked} and "
                f"has {kinds}, which depends on the weights it met; revoke {delta.id} first, or "
                f"erase again without {revoked}"
            )
    sketches = compose(deltas).provenance.base_sketch
    renamed: dict[str, str] = {}
    freed = []
    for delta in _ordered(deltas):
        if delta.id != revoked:
            freed.append(_freed(delta, revoked, sketches, renamed))
            renamed[delta.id] = freed[-1].id
    return compose(freed)


def _depending(delta: Delta) -> str:
    """Names what of a delta acts on weights rather than being added to them."""
    if delta.gate is not None:
        return "a gate"
    if delta.row_maps:
        return "a row map"
    maps = any(isinstance(patch, TextMapPatch) for patch in delta.patches.values())
    return "a text map" if maps else ""


def _freed(
    delta: Delta,
    revoked: str,
    sketches: Mapping[str, tuple[float, ...]],
    renamed: Mapping[str, str],
) -> Delta:
    """Writes a delta as one that was made without another; its parents have new ids by then."""
    told = delta.provenance
    parents = tuple(renamed.get(name, name) for name in told.parents if name != revoked)
    own = {key: sketches[key] for key in told.base_sketch}
    return replace(delta, provenance=replace(told, parents=parents, base_sketch=own))


def _empty_prompt(ordered: Sequence[Delta]) -> EmptyPrompt:
    """Says how the sum reads the empty prompt: as all that change text encoders do.

    Raises:
        BadDelta: they do not agree.
    """
    found = {each.empty_prompt: each.id for each in ordered if encoders_of(each.keys)}
    if len(found) > 1:
        raise BadDelta(
            f"delta {found['original']} leaves the empty prompt to the unedited text encoder and "
            f"delta {found['edited']} edits it, so their sum cannot do both; make both with the "
            "same --unconditional"
        )
    return next(iter(found), "edited")


def _gate(ordered: Sequence[Delta]) -> Gate | None:
    """Puts the gates side by side, as the sum puts the ranks of their patches.

    Raises:
        BadDelta: the layers or ranks of those with a gate differ.
    """
    held = [(delta.gate, delta.patches) for delta in ordered if delta.gate is not None]
    if not held:
        return None
    shapes = {
        (key, len(patch.down) // gate.membranes)
        for gate, patches in held
        for key, patch in patches.items()
        if isinstance(patch, LowRankPatch)
    }
    if any(len(patches) != len(shapes) for _, patches in held):
        raise BadDelta(
            "gated deltas of different layers or ranks do not make one; "
            "apply them one after the other"
        )
    return stacked([gate for gate, _ in held])


def _listed(given: Iterable[Any] | None, what: str) -> list[Any]:
    if given is None and what == "scales":
        return []
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise BadRequest(f"{what} is a {type(given).__name__}; give a list, such as [one, other]")
    return list(given)


def _check(deltas: Sequence[Delta], factors: Sequence[float]) -> None:
    if not deltas:
        raise BadRequest("there is nothing to compose; give at least one delta")
    if others := [type(each).__name__ for each in deltas if not isinstance(each, Delta)]:
        raise BadRequest(f"a {others[0]} is no delta; read one: efface.Delta.load(PATH)")
    if len(factors) != len(deltas):
        raise BadRequest(f"{len(deltas)} deltas need as many scales, not {len(factors)}")
    held = [name for delta in deltas for name in (delta.id, *delta.provenance.parts)]
    if twice := sorted({name for name in held if held.count(name) > 1}):
        raise BadRequest(f"delta {twice[0]} is given twice; give it once, with another scale")


def _ordered(deltas: Sequence[Delta]) -> list[Delta]:
    """Puts parents first and otherwise sorts by id, so that the given order cannot matter."""
    waiting = sorted(deltas, key=lambda delta: delta.id)
    done: list[Delta] = []
    while waiting:
        ready = [delta for delta in waiting if not _missing(delta, done)]
        if not ready:
            names = ", ".join(_missing(waiting[0], list(deltas)) or _missing(waiting[0], done))
            raise BadDelta(
                f"delta {waiting[0].id} was made on top of {names}, which is not among the deltas; "
                "compose them together"
            )
        done += ready
        waiting = [delta for delta in waiting if delta not in ready]
    return done


def _parents_among(delta: Delta, others: Sequence[Delta]) -> list[str]:
    """Finds those that supply a parent: the parent itself, or a composition of parents only."""
    parents = set(delta.provenance.parents)
    return [
        other.id
        for other in others
        if other.id in parents
        or (other.provenance.parts and parents.issuperset(other.provenance.parts))
    ]


def _missing(delta: Delta, others: Sequence[Delta]) -> list[str]:
    supplying = _parents_among(delta, others)
    supplied = {
        name
        for other in others
        if other.id in supplying
        for name in (other.id, *other.provenance.parts)
    }
    return [parent for parent in delta.provenance.parents if parent not in supplied]


def _check_bases(ordered: Sequence[Delta]) -> None:
    """Compares the sketches of deltas that were made on the bare base."""
    known: dict[str, tuple[float, ...]] = {}
    for delta in ordered:
        if delta.provenance.parents:
            continue
        for key, values in delta.provenance.base_sketch.items():
            deviation = sketch_deviation(values, known.setdefault(key, values))
            if deviation > SKETCH_TOLERANCE:
                raise BadDelta(
                    f"delta {delta.id} was made for another base than the others: {key} differs "
                    f"by {deviation:.1%}; compose deltas of one base only"
                )


def _on_top(
    patches: Mapping[str, Patch], beneath: Sequence[Mapping[str, Patch]]
) -> dict[str, Patch]:
    """Writes a change made on top of others relative to the bare base.

    Only a text map depends on the weight it meets: on changes D beneath it adds ``D left right``.
    """
    maps = {key: patch for key, patch in patches.items() if isinstance(patch, TextMapPatch)}
    extra = [
        {key: carried(patch, text_map) for key, patch in change.items() if reaches(own, key)}
        for own, text_map in maps.items()
        for change in beneath
    ]
    return _sum([patches, *extra])


def _sum(changes: Sequence[Mapping[str, Patch]]) -> dict[str, Patch]:
    total: dict[str, Patch] = {}
    for change in changes:
        for key, patch in change.items():
            total[key] = added(total[key], patch) if key in total else patch
    return total


def _provenance(ordered: Sequence[Delta], factor_of: Mapping[str, float]) -> Provenance:
    """Lists what went in; the base sketch is that of the first delta to touch each weight."""
    sketches: dict[str, tuple[float, ...]] = {}
    for delta in ordered:
        for key, values in delta.provenance.base_sketch.items():
            sketches.setdefault(key, values)
    parts = tuple(name for delta in ordered for name in (delta.id, *delta.provenance.parts))
    parents = {parent for delta in ordered for parent in delta.provenance.parents}
    return replace(
        ordered[0].provenance,
        method="compose",
        revision=1,
        settings={"scales": {delta.id: factor_of[delta.id] for delta in ordered}},
        recipe={},
        request=joined_requests([delta.provenance.request for delta in ordered]),
        base_sketch=sketches,
        base_prints=next(
            (one.provenance.base_prints for one in ordered if one.provenance.base_prints), {}
        ),
        parents=tuple(sorted(parents.difference(parts))),
        parts=parts,
    )


def joined_requests(requests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Writes several requests as one that asks for all of them."""
    return {
        "erasures": [each for one in requests for each in one.get("erasures", ())],
        "keep": [each for one in requests for each in one.get("keep", ())],
    }
