"""Around every verb: flags from dataclasses, one-line errors, exit codes."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import tyro

from efface.cli.output import Output
from efface.errors import BadRequest, EffaceError, MeasurementFailed

__all__ = ["Repeated", "Shared", "Verb", "guarded", "parse", "settings_from"]

Verb: TypeAlias = Callable[[list[str], Output], int]
Repeated: TypeAlias = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
"""A flag that is given once per value."""

T = TypeVar("T")

DONE, MEASURED_FAILURE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Flags that every verb has."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object, for machines."""
    traceback: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """After an error, print where it was raised."""


def guarded(verb: Verb, arguments: list[str]) -> int:
    """Runs a verb and turns what it raises into one line and an exit code."""
    output = Output.from_arguments(arguments)
    try:
        return verb(arguments, output)
    except KeyboardInterrupt:
        advice = output.after_interrupt
        told = advice if isinstance(advice, str) else advice()
        return _failed(output, "Interrupted", f"interrupted; {told}", INTERRUPTED)
    except MeasurementFailed as error:
        return _failed(output, type(error).__name__, str(error), MEASURED_FAILURE)
    except EffaceError as error:
        return _failed(output, type(error).__name__, str(error), BAD_INPUT)
    except UnicodeEncodeError as error:
        what = f"{error.object[error.start : error.end]!a} is no text that can be written"
        return _failed(output, "BadRequest", f"{what}; give names and paths in UTF-8", BAD_INPUT)
    except OSError as error:
        return _failed(output, "FileTrouble", _file_trouble(error), BAD_INPUT)
    except Exception as error:
        # Nobody foresaw it: its traceback is shown, and whoever reads JSON gets some.
        output.error("Unexpected", f"{type(error).__name__}: {error}")
        raise


def parse(options: type[T], arguments: Sequence[str], *, prog: str, description: str) -> T:
    """Reads flags into a dataclass; prints its help when asked.

    Raises:
        BadRequest: a flag is unknown, missing or has a bad value; the text is one line.
        SystemExit: the help was asked for and printed.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            found = tyro.cli(
                options,
                args=arguments,
                prog=prog,
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
            )
        _check_common(found, arguments)
        return found
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    raise BadRequest(f"{_one_line(complaint.getvalue())}; see {prog} --help")


def _check_common(options: Any, arguments: Sequence[str]) -> None:
    """Refuses values that no verb can use: empty paths, and seeds that no generator takes.

    Raises:
        BadRequest: one of them.
    """
    dots = any(Path(given.rpartition("=")[2] or "/") == Path() for given in arguments)
    for name, value in vars(options).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, Path) and value == Path() and not dots:
            raise BadRequest(f"{flag} is empty; name a file or a folder")
        if name == "seed" and not -(2**63) <= value < 2**63:
            raise BadRequest(f"--seed is {value}; give a whole number of at most 63 bits")


def _failed(output: Output, kind: str, text: str, code: int) -> int:
    if output.traceback:
        traceback.print_exc(file=sys.stderr)
    output.error(kind, text)
    return code


def _file_trouble(error: OSError) -> str:
    import errno

    where = f" while writing {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return f"no space left{where}; nothing half-written was kept: free some space and run again"
    what = error.strerror or str(error)
    named = f": {error.filename}" if error.filename else ""
    return f"{what}{named}; check that the path exists and that you may read and write it"


def _one_line(panel: str) -> str:
    """Takes the message out of the box that the flag parser draws around it.

    Its first line is a title; rows of dashes separate the message from suggestions and help.
    """
    lines = [line.strip(" │") for line in panel.splitlines()[1:] if not line.startswith("╰")]
    parts = re.split(r"^[─-]+$", "\n".join(lines), flags=re.MULTILINE)
    message, *hints = [" ".join(part.split()) for part in parts if part.strip()]
    message = re.sub(r"^Error parsing (method|settings): ", "", message).rstrip(".")
    near = re.search(r"Perhaps you meant: (--[\w.-]+)", " ".join(hints))
    return f"{message}; did you mean {near[1]}?" if near else message


def settings_from(found: type[Any], arguments: Sequence[str], default: Any, *, source: str) -> Any:
    """Reads flags into a method, starting from ``default``.

    Raises:
        BadRequest: see `parse`; the text starts with ``source``.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(found, args=arguments, default=default, prog=source)
    except SystemExit:
        raise BadRequest(f"{source}: {_one_line(complaint.getvalue())}") from None
