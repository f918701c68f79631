"""Guides of sampling on the command line: ``--guide sld --sld.concepts "a pistol"``."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface import registry
from efface.cli.choosing import by_stage
from efface.cli.shell import Repeated, settings_from
from efface.errors import BadRequest

if TYPE_CHECKING:
    from efface.contracts import Guide
    from efface.guiding.drawing import Guided

__all__ = ["Guiding", "guides_of", "record", "told"]


@dataclass(frozen=True, kw_only=True)
class Guiding:
    """What steers sampling."""

    guide: Repeated = ()
    """What steers sampling, see efface list guides; repeat for several. Its settings are flags with
    its name, such as --sld.preset strong --sld.concepts pistol."""


def guides_of(arguments: list[str]) -> tuple[list[str], list[Guide]]:
    """Reads guides and their settings; gives the flags that are not theirs.

    Raises:
        BadRequest: an unknown guide, preset or setting, one that is named twice, settings of a
            guide that is not there, a value out of range, or guides that do not fit one another.
    """
    reader = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument("--guide", action="append", nargs="?", default=[])
    names = [str(name) for name in reader.parse_known_args(arguments)[0].guide]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadRequest(f"--guide {twice[0]} is given twice; give it once, with all its settings")
    known = [entry.name for entry in registry.entries("guides")]
    common, own = by_stage(arguments, known)
    if absent := [name for name in known if own[name] and name not in names]:
        raise BadRequest(
            f"{own[absent[0]][0]} is a setting of {absent[0]}; add --guide {absent[0]}"
        )
    guides = [_built(name, own.get(name, [])) for name in names]
    if guides:
        from efface.guiding.course import refuse_unfit

        refuse_unfit(guides)
    return common, guides


def _built(name: str, flags: list[str]) -> Guide:
    """Builds a guide: class default, then preset, then flag."""
    reader = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument("--preset")
    early, rest = reader.parse_known_args(flags)
    start = registry.build("guides", name, preset=early.preset)
    made: Guide = settings_from(type(start), rest, start, source=f"guide {name}")
    return made


def told(guided: Sequence[Guided]) -> list[str]:
    """Says what guides cost and what they did not do, one line each."""
    if not guided:
        return []
    lines = []
    for name in guided[0].changes:
        changes = [change for part in guided for change in part.changes[name]]
        alone = [change for change in changes if change != change]
        if alone:
            lines.append(f"{name} left {len(alone)} of {len(changes)} pictures alone")
    count = sum(len(part.prompts) for part in guided)
    spent = sum(part.evaluations * len(part.prompts) for part in guided) / count
    return [
        *(sentence for part in guided for sentence in part.unmoved()),
        *lines,
        f"network evaluations: {spent:g} per picture",
    ]


def record(guided: Sequence[Guided], guides: Sequence[Guide]) -> dict[str, Any]:
    """Gives the same for machines: each guide with its settings and its largest changes."""
    if not guided:
        return {}
    return {
        "guides": [
            {
                "guide": guide.name,
                "revision": guide.revision,
                "settings": registry.settings_of(guide),
                "changes": [
                    None if change != change else change
                    for part in guided
                    for change in part.changes[guide.name]
                ],
            }
            for guide in guides
        ],
        "evaluations": [part.evaluations for part in guided for _ in part.prompts],
    }
