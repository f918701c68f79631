"""Golden numbers of `tests.cases`, by the literal loops: ``python -m tests.reference.golden``."""

import sys

from efface.concepts import wordings
from tests.cases import CASES
from tests.conftest import host
from tests.reference import closed_form as reference
from tests.reference import families

RULES = {"anchor": reference.legacy_rows, "prompt_without_concept": reference.rows_without}


def change(case):
    """Gives the relative change of all keys and values, for cases with the legacy token rule."""
    pipe, family = host(case.host), case.host.removeprefix("tiny_")
    if family not in ("sd1", "sd2"):
        after = _large(pipe, family, case)
        return families.relative_change(families.readers(pipe, family), after)
    rows = RULES[case.settings.get("target", "anchor")]
    wanted = case.request
    pairs = [
        rows(pipe, text, _target(text, erasure))
        for erasure in wanted.erasures
        for text in wordings(erasure.concept)
    ]
    kept = [reference.states(pipe, "")[0]]
    kept += [reference.states(pipe, text)[0] for one in wanted.keep for text in wordings(one)]
    before = reference.key_value_layers(pipe.unet)
    given = case.settings
    if case.method == "trce":
        ends = [
            reference.end_rows(pipe, text, _target(text, erasure))
            for erasure in wanted.erasures
            for text in wordings(erasure.concept)
        ]
        weights = {"keep": given.get("keep_weight", 1e-3), "ridge": given.get("ridge", 1e-3)}
        after = reference.trce(before, ends, kept, **weights)
        return reference.relative_change(before, after)
    if case.method == "realera":
        after = reference.realera(
            before,
            pairs,
            kept,
            near=(0.9, 1.0),
            distance=0.45,
            beyond=(0.5, 0.85),
            keep=given.get("keep_weight", 0.1),
            ridge=given.get("ridge", 0.1),
        )
        return reference.relative_change(before, after)
    first = "first_" if case.method == "rece" else ""
    erase = given.get("erase_scale", 1.0)
    keep, ridge = given.get(f"{first}keep_scale", 1.0), given.get(f"{first}ridge", 0.5)
    after = reference.uce(before, pairs, kept, erase=erase, keep=keep, ridge=ridge)
    if case.method == "rece":
        after = _rounds(pipe, case, before, after, pairs, kept)
    return reference.relative_change(before, after)


def _rounds(pipe, case, before, after, pairs, kept):
    """Does RECE's rounds after its first edit."""
    given = case.settings
    erase, keep = given.get("erase_scale", 1.0), given.get("keep_scale", 0.1)
    share = (erase * given.get("hold", 0.0) / keep) ** 0.5
    held = [share * sources for sources, _ in pairs] if share else []
    if given.get("rows", "all") == "all":
        empty = reference.states(pipe, "")[0]
        texts = [text for each in case.request.erasures for text in wordings(each.concept)]
        pairs = [(reference.states(pipe, text)[0], empty) for text in texts]
    return reference.rece(
        before,
        after,
        pairs,
        kept,
        rounds=given["rounds"],
        strength=given.get("strength", 0.1),
        keep=keep,
        ridge=given.get("ridge", 0.1),
        erase=erase,
        held=held,
    )


def _large(pipe, family, case):
    if case.method == "trce":
        return families.trce(pipe, family, case.request, keep=1e-3, ridge=1e-3)
    if case.method == "realera":
        return families.realera(pipe, family, case.request)
    rounds = case.settings.get("rounds", 0)
    return families.edited(pipe, family, case.request, method=case.method, rounds=rounds)


def _target(text, erasure):
    anchor = "" if erasure.anchor is None else erasure.anchor.name
    return text.replace(erasure.concept.name, anchor) if anchor else ""


if __name__ == "__main__":
    for case in CASES:
        if "change" not in case.golden:
            continue
        sys.stdout.write(f"{case.name}: {change(case):.9f}\n")
