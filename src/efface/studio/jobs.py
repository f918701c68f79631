"""One queue of jobs: one pipeline is edited by one job at a time, and left as it was."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from efface.errors import EffaceError
from efface.printable import printable

__all__ = ["Cancelled", "Job", "Queue", "State", "Told", "Work"]

State: TypeAlias = Literal["waiting", "running", "done", "failed", "cancelled"]


class Cancelled(KeyboardInterrupt):
    """Somebody asked for a job to end; work treats it as it treats Ctrl-C."""


@dataclass(eq=False)
class Job:
    """A piece of work with what is known of it."""

    title: str
    work: Work
    owner: str
    """Whose page asked for it; empty: nobody's, it goes on when pages close."""
    state: State = "waiting"
    what: str = ""
    """What goes on."""
    step: int = 0
    total: int = 0
    curves: dict[str, list[float]] = field(default_factory=dict)
    """Figures of the steps, by name."""
    lines: list[str] = field(default_factory=list)
    result: Any = None
    """What the work gives, or has to show so far."""
    error: str = ""
    seconds: float = 0.0
    wanted: bool = True
    """False once it is to end."""

    @property
    def ended(self) -> bool:
        """Says whether nothing more happens."""
        return self.state in ("done", "failed", "cancelled")

    def check(self) -> None:
        """Ends the work here if that was asked for.

        Raises:
            Cancelled: it was.
        """
        if not self.wanted:
            raise Cancelled


@dataclass(eq=False)
class Told:
    """A `Telling` that writes into a job, and ends the work at a step when that is asked for."""

    job: Job
    root: str = ""
    """Folder whose files are named without it."""
    after_interrupt: str | Callable[[], str] = "nothing was written"

    def say(self, *lines: Any) -> None:
        """Keeps lines of text; tables are shown from what they are made of."""
        self.job.lines += [self.shown(line) for line in lines if isinstance(line, str) and line]

    def shown(self, line: str) -> str:
        """Writes a line as the page shows it."""
        line = printable(" ".join(line.split()))
        return line.replace(f"{self.root}/", "") if self.root else line

    def result(self, fields: Mapping[str, Any]) -> None:
        """Has nobody to tell: the studio reads the run."""

    @contextmanager
    def progress(self, title: str) -> Iterator[Told]:
        """Shows another stretch of the work."""
        self.job.check()
        self.job.what, self.job.step, self.job.total = self.shown(title), 0, 0
        yield self
        self.job.check()

    def __call__(self, step: int, total: int, figures: Mapping[str, float], /) -> None:
        """Notes a step and its figures.

        Raises:
            Cancelled: the job is to end.
        """
        self.job.check()
        self.job.step, self.job.total = step + 1, total
        for name, value in figures.items():
            self.job.curves.setdefault(name, []).append(float(value))

    def before(self, what: str, done: int, total: int) -> None:
        """Notes how far something is that precedes the steps.

        Raises:
            Cancelled: the job is to end.
        """
        self.job.check()
        self.job.what, self.job.step, self.job.total = self.shown(what), done, total


Work: TypeAlias = Callable[[Told], Any]


class Queue:
    """Runs jobs in turn in a single thread, which alone touches the model."""

    def __init__(self, after_each: Callable[[], None] = lambda: None, *, root: str = "") -> None:
        self._after_each, self._root = after_each, root
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._running: Job | None = None
        threading.Thread(target=self._serve, name="studio", daemon=True).start()

    def submit(self, title: str, work: Work, owner: str = "") -> Job:
        """Puts a job at the end."""
        job = Job(title, work, owner)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def ahead(self, job: Job) -> int:
        """Counts the jobs that are done before one that waits."""
        with self._changed:
            place = self._waiting.index(job) if job in self._waiting else 0
            return place + (self._running is not None and job in self._waiting)

    def cancel(self, job: Job) -> None:
        """Ends a job: at its next step, or before it began."""
        with self._changed:
            job.wanted = False
            if job in self._waiting:
                self._waiting.remove(job)
                job.state = "cancelled"
            self._changed.notify_all()

    def leave(self, owner: str) -> None:
        """Ends what a page asked for that is closed."""
        with self._changed:
            every = [*self._waiting, *([self._running] if self._running else [])]
        for job in every:
            if owner and job.owner == owner:
                self.cancel(job)

    def follow(self, job: Job, *, pause: float = 0.4) -> Iterator[Job]:
        """Yields a job whenever it may have changed, and once when it has ended.

        A job that is no longer followed is cancelled: its page was closed.
        """
        try:
            while not job.ended:
                yield job
                with self._changed:
                    self._changed.wait(pause)
            yield job
        finally:
            if not job.ended:
                self.cancel(job)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                job = self._running = self._waiting.popleft()
            self._do(job)
            with self._changed:
                self._running = None
                self._changed.notify_all()

    def _do(self, job: Job) -> None:
        told, started = Told(job, self._root), time.perf_counter()
        job.state = "running"
        state: State = "done"
        try:
            job.check()
            found = job.work(told)
            job.result = job.result if found is None else found
        except KeyboardInterrupt:
            state, advice = "cancelled", told.after_interrupt
            job.error = told.shown(advice if isinstance(advice, str) else advice())
        except EffaceError as error:
            state, job.error = "failed", told.shown(str(error))
        except OSError as error:
            state, job.error = "failed", told.shown(str(error))
        except Exception as error:  # A bug ends its job, and is shown whole where it was started.
            traceback.print_exc(file=sys.stderr)
            state, job.error = "failed", f"this is a bug: {type(error).__name__}"
        finally:
            job.seconds = time.perf_counter() - started
            self._after_each()
            job.state = state
