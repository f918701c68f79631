"""Runs jobs here, in processes of this machine, or on a Ray cluster, each once."""

from __future__ import annotations

import multiprocessing
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from efface.errors import BadRequest, MeasurementFailed, MissingInput

__all__ = ["EXECUTORS", "Executor", "GiveUp", "Hear", "Work", "Workers", "run_all"]

Executor: TypeAlias = Literal["local", "processes", "ray"]
EXECUTORS: tuple[Executor, ...] = ("local", "processes", "ray")
Work: TypeAlias = Callable[[Any, str], str]
"""Does a job and writes its result into the store at a place; gives an error's text, or nothing."""
Hear: TypeAlias = Callable[[int, int, str], None]
"""Told how many jobs are done, of how many, and an error's text."""
GiveUp: TypeAlias = Callable[[Any, str, str], None]
"""Told of a job that ended its worker every time, the place of the store, and what happened."""

RESTARTS = 3
"""How often a job is given to another worker after its own died."""

REACHED_WITHIN = 10.0
"""Seconds in which a cluster's address must answer."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who does jobs."""

    executor: Executor = "local"
    count: int = 2
    """Jobs at a time, for processes and Ray."""
    address: str | None = None
    """Of the Ray cluster; None: one is started on this machine."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise BadRequest(f"there are {self.count} workers; give at least one")


def run_all(
    jobs: Sequence[Any],
    work: Work,
    place: str,
    workers: Workers,
    hear: Hear = lambda *_: None,
    give_up: GiveUp = lambda *_: None,
) -> tuple[str, ...]:
    """Does all jobs; gives the errors of those that could not be done.

    Results are in the store, not here: a job whose worker died is done again by another one, and
    its result is the file of that name, so that nothing is lost or counted twice.

    Args:
        jobs: what is done.
        work: does one; must be importable by name for processes and Ray.
        place: of the store.
        workers: who.
        hear: told of every job that is done.
        give_up: told of a job that ended its worker every time, where that is known: on Ray. It
            counts as one that could not be done, and the others go on.

    Raises:
        BadRequest: there is no cluster at the address.
        MissingInput: Ray is not installed.
        MeasurementFailed: processes die again and again.
    """
    if workers.executor == "ray":
        results = _ray(jobs, work, place, workers, give_up)
    else:
        results = {"local": _here, "processes": _processes}[workers.executor](
            jobs, work, place, workers
        )
    errors = []
    for done, error in enumerate(results, start=1):
        hear(done, len(jobs), error)
        if error:
            errors.append(error)
    return tuple(errors)


def _here(jobs: Sequence[Any], work: Work, place: str, _: Workers) -> Iterator[str]:
    for job in jobs:
        yield work(job, place)


def _processes(jobs: Sequence[Any], work: Work, place: str, workers: Workers) -> Iterator[str]:
    """Gives jobs to processes that are started afresh; a pool that broke is replaced."""
    left, broken = list(jobs), 0
    while left:
        # Not forked: threads and locks of this process would come along.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            workers.count, mp_context=context, initializer=_end_when_interrupted
        ) as pool:
            given = {pool.submit(work, job, place): job for job in left}
            try:
                for future in _completed(given):
                    error = future.result()
                    left.remove(given[future])
                    yield error
            except BrokenProcessPool:
                broken += 1
                if broken > RESTARTS:
                    raise MeasurementFailed(
                        f"workers died {broken} times, {len(left)} of {len(jobs)} jobs are left; "
                        "look for what ends them, such as too little memory, and run the same "
                        "command again to go on"
                    ) from None
            except KeyboardInterrupt:
                # Else leaving the pool would wait for what they are doing.
                for process in multiprocessing.active_children():
                    process.terminate()
                raise
            finally:
                for future in given:
                    future.cancel()


def _end_when_interrupted() -> None:
    """Lets Ctrl-C end a process at once and without a word; files are whole or not there.

    A job in the background of a script is left alone by it, and so are its processes.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _completed(given: dict[Future[str], Any]) -> Iterator[Future[str]]:
    waiting = set(given)
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        yield from done


def _ray(
    jobs: Sequence[Any], work: Work, place: str, workers: Workers, give_up: GiveUp
) -> Iterator[str]:
    """Gives jobs to Ray, a processor each; Ray starts those of a dead worker again."""
    try:
        import ray
    except ImportError:
        raise MissingInput(
            "ray is not installed; pip install 'efface[ray]', or use --executor processes"
        ) from None
    own = not ray.is_initialized()
    if own:
        _connect(ray, workers)
    task = ray.remote(num_cpus=1, max_retries=RESTARTS)(work)
    given: dict[Any, Any] = {}
    try:
        for job in jobs:
            given[task.remote(job, place)] = job
            if len(given) >= workers.count:
                yield _next_done(ray, given, place, give_up)
        while given:
            yield _next_done(ray, given, place, give_up)
    finally:
        if own:
            ray.shutdown()


def _next_done(ray: Any, given: dict[Any, Any], place: str, give_up: GiveUp) -> str:
    """Waits for one of the jobs that were given to Ray, and takes it out."""
    (reference,), _ = ray.wait(list(given), num_returns=1)
    job = given.pop(reference)
    try:
        return str(ray.get(reference))
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        lost = f"its worker died {RESTARTS + 1} times ({_first_line(error)})"
        give_up(job, place, lost)
        return lost


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _connect(ray: Any, workers: Workers) -> None:
    """Joins the cluster at an address, or starts one of this machine."""
    options: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False}
    try:
        if workers.address is not None:
            _check_reachable(workers.address)
            ray.init(address=workers.address, log_to_driver=False)
        else:
            ray.init(num_cpus=workers.count, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadRequest(
            f"there is no Ray cluster at {workers.address or 'this machine'} "
            f"({_first_line(error)}); start one with ray start --head, or leave --address "
            "out"
        ) from error


def _check_reachable(address: str) -> None:
    """Asks whether anything listens at an address, where Ray would go on trying for minutes.

    Raises:
        OSError: nothing does.
        ValueError: the port is no number.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=REACHED_WITHIN).close()
