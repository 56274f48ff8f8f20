"""Where workers run: the engines that a search can name, one file each, registered by themselves.

A module here has a class that is an :class:`Engine`. It starts workers, restarts those that died,
and returns when all have ended without an error; the database decides which worker runs which
trial.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from axsearch import discovery
from axsearch.errors import UsageError
from axsearch.progress import console, progress_bar
from axsearch.running.request import WorkerPool, WorkerRequest
from axsearch.store.database import open_database
from axsearch.store.outages import (
    LONGEST,
    DatabaseAwayError,
    at_once,
    is_of_database,
    said_by,
    transient,
)
from axsearch.study.study import Study


class Engine(ABC):
    """Runs workers."""

    name: ClassVar[str]

    @abstractmethod
    def check(self, pool: WorkerPool) -> None:
        """Raises UsageError if this engine cannot run that many workers; called before all else."""

    @abstractmethod
    def run(self, pool: WorkerPool, request: WorkerRequest, poll: Callable[[], int]) -> None:
        """Run workers until all have ended without an error.

        Args:
            pool: how many, and where.
            request: the study that they work on.
            poll: to be called about every second; returns how many models are finished.

        Raises:
            AxsearchError: a worker failed in a way that a restart would not fix, or repeatedly.
            KeyboardInterrupt: a signal came, and the workers have ended.
        """


def be_worker(request: WorkerRequest, threads: int) -> None:
    """Be a worker, in a process that an engine started: :func:`axsearch.running.session.work`."""
    # It imports torch, which the supervising process does not need.
    from axsearch.running.session import work

    try:
        database = open_database(request.storage)
    except UsageError as error:
        if error.__cause__ is not None and transient(error.__cause__):
            raise DatabaseAwayError(str(error)) from error  # the search before found it there
        raise
    try:
        work(
            database,
            request.study,
            model=request.model,
            data=request.data,
            device=request.device,
            threads=threads,
        )
    finally:
        database.close()


def _engines() -> dict[str, Engine]:
    found = discovery.classes(sys.modules[__name__], Engine)  # type: ignore[type-abstract]
    return {member.name: member() for member in found}


def engine_names() -> tuple[str, ...]:
    """The name of every engine."""
    return tuple(sorted(_engines()))


def check_pool(pool: WorkerPool) -> None:
    """Raises UsageError where no engine can run such a pool, before anything expensive is done."""
    engines = _engines()
    if pool.engine not in engines:
        raise UsageError(
            f"`engine` must be one of {', '.join(engine_names())}, not {pool.engine!r}."
        )
    for name, value in (("workers", pool.workers), ("cpus", pool.cpus)):
        if value is not None and value < 1:
            raise UsageError(f"`{name}` must be at least 1, not {value}.")
    engines[pool.engine].check(pool)


def run_workers(pool: WorkerPool, request: WorkerRequest) -> None:
    """Run workers on a study that was made, with progress, until enough of it is finished.

    Raises:
        UsageError: no engine can run such a pool, there is no such study, or its database can only
            be read.
        AxsearchError: workers keep failing.
        KeyboardInterrupt: stopped by the user; finished trials are kept.
    """
    check_pool(pool)
    with _watch(request) as poll:
        _engines()[pool.engine].run(pool, request, poll)


@contextmanager
def _watch(request: WorkerRequest) -> Iterator[Callable[[], int]]:
    """A context with a function that shows the progress of all workers."""
    study = Study.open(request.storage, request.study)
    storage, began, told, away = study.database.storage, time.monotonic(), -1, False
    wanted, _ = study.asked
    with progress_bar() as progress:
        bar = progress.add_task("Searching", total=wanted)

        def poll() -> int:
            nonlocal told, away
            try:
                with at_once():  # the workers wait, and signals must be seen
                    count = storage.finished(study.id)
                    running = len(storage.others(study.id))
            except Exception as error:
                if not is_of_database(error) or not transient(error):
                    raise
                if not away:
                    console.print(
                        f"The workers wait for the database, for up to {LONGEST:.0f} s: "
                        f"{said_by(error)}.",
                        style="yellow",
                        markup=False,
                    )
                away = True
                return max(told, 0)
            away = False
            if count == told:
                return count
            progress.update(
                bar, completed=count, description=f"Searching · {running} trials running"
            )
            if not console.is_terminal and told >= 0:
                console.print(f"trial {count}/{wanted} · {time.monotonic() - began:.0f} s")
            told = count
            return count

        try:
            study.database.check_writable()
            poll()
            yield poll
        finally:
            study.database.close()
