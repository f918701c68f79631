"""Picks the verb; imports nothing heavy, so that help and errors are instant."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

__all__ = ["VERBS", "main"]

VERBS = {
    "erase": "erase concepts from a model; writes a delta, pictures, a report and a card",
    "debias": "balance what a concept is drawn like, such as its style; writes a delta",
    "plan": "say what an erasure from a model folder touches, takes and writes, before any work",
    "generate": "draw pictures from prompts, with any number of deltas applied",
    "apply": "draw pictures with one run's delta applied, or write an edited copy of the model",
    "evaluate": "measure a run: erased? what else changed? with intervals and controls",
    "verify": "re-hash a run and its reports, check its base, redraw its smoke set; say how far",
    "rerun": "erase again from a run.json; say equal or how far",
    "export": "write a run as a model folder, a LoRA, an adapter: what other tools read",
    "import": "read another tool's edit as a run that can be measured, verified and exported",
    "transfer": "let a run's delta act on a fine-tune of its base, as a run of its own",
    "ledger": "add, list, revoke, merge and replay requests; erase all that are active at once",
    "list": "list methods, judges, metrics, suites, models or concepts",
}

MODULES = {"import": "importing"}
"""Files of verbs whose own name cannot be one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; gives the exit code.

    0 is success, 1 a measured failure (invalid verdict, failed erasure, mismatch, nothing changed),
    2 bad input, 130 an interrupt.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0 if given else 2
    if given[0] in ("-V", "--version"):
        sys.stdout.write(f"efface {_version()}\n")
        return 0
    verb, *rest = given
    if verb not in VERBS:
        sys.stderr.write(f"efface: {_unknown(verb)}\n")
        return 2
    shell = import_module("efface.cli.shell")
    return int(shell.guarded(import_module(f"efface.cli.{MODULES.get(verb, verb)}").run, rest))


def usage() -> str:
    """Writes the page that ``efface --help`` shows."""
    verbs = "".join(f"  {name:<10} {summary}\n" for name, summary in VERBS.items())
    return (
        "usage: efface VERB ...\n\n"
        "Erases concepts from image models, and proves what was erased and what was not.\n\n"
        f"verbs:\n{verbs}\n"
        "Start with:      efface erase rece --concept pistol --out runs/pistol\n"
        "One verb's help: efface VERB --help, and efface erase METHOD --help\n"
    )


def _unknown(verb: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(verb, VERBS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no verb called '{verb}'; {hint}known: {', '.join(VERBS)}"


def _version() -> str:
    from importlib.metadata import version

    return version("efface")


if __name__ == "__main__":
    sys.exit(main())
