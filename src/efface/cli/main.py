"""Picks the verb; imports nothing heavy, so that help and errors are instant."""

from __future__ import annotations

import io
import os
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
    "attack": "try to bring a run's erased concept back; say how hard that was",
    "matrix": "attack many methods by many attacks; say which access and what budget undoes each",
    "sweep": "erase and measure by methods, settings, concepts and seeds of a file, as jobs",
    "hardest": "find the pictures, classes or prompts that are hardest to forget; show why",
    "verify": "re-hash a run and its reports, check its base, redraw its smoke set; say how far",
    "rerun": "erase again from a run.json; say equal or how far",
    "export": "write a run as a model folder, a LoRA, an adapter: what other tools read",
    "card": "write a measured run's card for a hub, and send it there when told to",
    "sign": "sign every file of a run or of what was exported, with a key of one's own",
    "import": "read another tool's edit as a run that can be measured, verified and exported",
    "transfer": "let a run's delta act on a fine-tune of its base, as a run of its own",
    "revoke": "take one request out of several that were made on top of one another",
    "ledger": "add, list, revoke, merge and replay requests; erase all that are active at once",
    "studio": "open the page in the browser: erase, scale, look, attack and compare runs",
    "list": "list methods, searches, judges, metrics, suites, models or concepts",
}

MODULES = {"import": "importing"}
"""Files of verbs whose own name cannot be one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; gives the exit code.

    0 is success, 1 a measured failure (invalid verdict, failed erasure, mismatch, nothing changed),
    2 bad input, 130 an interrupt.
    """
    _open_streams()
    # What torch has not written for Apple's GPUs is computed on the CPU; it reads this once.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except OSError as error:
        # Nothing more can be said there, neither now nor when Python ends.
        _replace_stream(1, "stdout", "w")
        sys.stderr.write(f"efface: cannot write to standard output ({error.strerror or error})\n")
        return 2
    return code


def _open_streams() -> None:
    """Opens streams that were closed, as files would else take their places; any text fits."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            _replace_stream(number, name, mode)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _replace_stream(number: int, name: str, mode: str) -> None:
    """Lets a stream lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _run(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0 if given else 2
    if given[0] in ("-V", "--version"):
        sys.stdout.write(f"efface {_version()}\n")
        return 0
    verb, *rest = given
    if verb not in VERBS:
        output = import_module("efface.cli.output").Output.from_arguments(given)
        output.error("BadRequest", _unknown(verb))
        return 2
    shell = import_module("efface.cli.shell")
    return int(shell.guarded(import_module(f"efface.cli.{MODULES.get(verb, verb)}").run, rest))


def usage() -> str:
    """Writes the page that ``efface --help`` shows."""
    verbs = "".join(f"  {name:<10} {summary}\n" for name, summary in VERBS.items())
    return (
        "usage: efface VERB ...\n\n"
        "Erases concepts from image models, and measures what was erased and what else changed.\n\n"
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
    if not sys.flags.safe_path:
        del sys.path[0]  # The working folder, which may hold a torch.py of a model's.
    sys.exit(main())
