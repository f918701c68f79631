"""What a command says: words for people, or one JSON object for machines."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.printable import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.progress import Progress, TaskID
    from rich.segment import Segment

__all__ = ["Bar", "Output"]


@dataclass(frozen=True)
class Bar:
    """A bar on the terminal; a `Monitor`."""

    _shown: Progress
    _task: TaskID
    _title: str

    def __call__(self, step: int, total: int, figures: Mapping[str, float]) -> None:
        """Shows that a step is done, with its figures."""
        told = " ".join(f"{name} {value:.3g}" for name, value in figures.items())
        self._update(step + 1, total, description=self._title, figures=told)

    def before(self, what: str, done: int, total: int) -> None:
        """Shows how far something is that comes before the steps, instead of the title."""
        self._update(done, total, description=what, figures="")

    def _update(self, done: int, total: int, **shown: Any) -> None:
        self._shown.update(self._task, completed=done, total=total, **shown)


@dataclass(frozen=True)
class _Printable:
    """Shows something without the control characters that text of others may hold."""

    shown: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.shown, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def _finite(value: Any) -> Any:
    """Puts null in the place of numbers that are not finite, at any depth."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Output:
    """Standard output holds results, standard error progress and errors.

    With ``machine`` set, nothing but one JSON object reaches standard output.
    """

    def __init__(self, *, machine: bool, traceback: bool) -> None:
        self.machine, self._told = machine, False
        self.traceback = traceback
        self.after_interrupt: str | Callable[[], str] = (
            "nothing was written; run the same command again"
        )
        """What to do after Ctrl-C, or what finds that out then; verbs replace it as they go on."""

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> Output:
        """Reads the two shared flags before anything is parsed, so that parse errors obey them."""
        return cls(machine="--json" in arguments, traceback="--traceback" in arguments)

    def say(self, *lines: RenderableType) -> None:
        """Prints for people; silent for machines."""
        if not self.machine:
            from rich.text import Text

            console = self._console()
            for line in lines:
                shown = Text(line) if isinstance(line, str) else line
                console.print(_Printable(shown), soft_wrap=isinstance(line, str))

    def result(self, fields: Mapping[str, Any]) -> None:
        """Prints the JSON object for machines; silent for people.

        What is not finite is null: JSON has no such numbers, and strict readers refuse them.
        """
        if self.machine:
            self._told = True
            held = _finite(json.loads(json.dumps(fields, default=str)))
            sys.stdout.write(json.dumps(held, indent=2, allow_nan=False) + "\n")

    def error(self, kind: str, text: str) -> None:
        """Prints one line to standard error, and for machines an object to standard output.

        What was told already stays the only object there.
        """
        line = printable(" ".join(text.split()))
        with contextlib.suppress(OSError):  # of an output that is closed or full
            sys.stderr.write(f"efface: {line}\n")
            if not self._told:
                self.result({"error": {"kind": kind, "message": line}})

    @contextmanager
    def progress(self, title: str) -> Iterator[Bar]:
        """Shows a bar on standard error while something takes its time; gone when it is done.

        It stays one line: figures of the step come last, and those for which there is no room are
        cut. Without a terminal there is no bar, only a line that says what is being done.
        """
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining
        from rich.table import Column

        console = Console(stderr=True)
        hidden = self.machine or not console.is_terminal
        if hidden:
            self.say(f"{title} ...")
        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            MofNCompleteColumn(),
            Remaining(),
            TextColumn("{task.fields[figures]}", style="dim", markup=False, table_column=rest),
        )
        with Progress(
            *columns, console=console, transient=True, expand=True, disable=hidden
        ) as bar:
            yield Bar(bar, bar.add_task(printable(title), total=None, figures=""), printable(title))

    def _console(self) -> Console:
        from rich.console import Console

        return Console(highlight=False)
