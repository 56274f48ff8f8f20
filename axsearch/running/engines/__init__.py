"""Where workers run: the engines that a search can name, one file each, found by being there.

A module here has a class that is an :class:`Engine`. It starts workers, starts those again that
died, and returns when all have ended well; who does which trial is settled in the database.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

from axsearch import discovery
from axsearch.errors import UsageError
from axsearch.options import like
from axsearch.progress import console, progress_bar
from axsearch.running.request import (
    DataHere,
    ModelHere,
    SearchRequest,
    Storage,
    StudyName,
    Workers,
)
from axsearch.store.database import open_database
from axsearch.store.outages import DatabaseAwayError, at_once, is_of_database, transient
from axsearch.study.study import Study


@dataclass(frozen=True)
class Job:
    """What workers are to do; ``model``, ``data`` and ``device`` where they are other than the
    study's.
    """

    storage: Storage
    study: StudyName
    model: ModelHere = None
    data: DataHere = None
    device: Annotated[str | None, like(SearchRequest, "device", omitted="the study's")] = None

    def __repr__(self) -> str:
        return f"Job(study={self.study!r})"  # the storage may hold a password


class Engine(ABC):
    """Runs workers."""

    name: ClassVar[str]

    @abstractmethod
    def check(self, place: Workers) -> None:
        """Raises UsageError where this engine cannot run so many workers, before anything else."""

    @abstractmethod
    def run(self, place: Workers, job: Job, poll: Callable[[], int]) -> None:
        """Run workers until all have ended well.

        Args:
            place: how many, and where.
            job: what they do.
            poll: to be called about every second; says how many models are finished.

        Raises:
            AxsearchError: a worker failed in a way that starting it again would not mend, or time
                and again.
            KeyboardInterrupt: a signal came, and the workers have ended.
        """


def be_worker(job: Job, threads: int) -> None:
    """Do a job in this process, which an engine started: :func:`axsearch.running.session.work`."""
    # With torch, which the process that supervises does without.
    from axsearch.running.session import work

    try:
        database = open_database(job.storage)
    except UsageError as error:
        if error.__cause__ is not None and transient(error.__cause__):
            raise DatabaseAwayError(str(error)) from error  # the search before found it there
        raise
    try:
        work(
            database, job.study, model=job.model, data=job.data, device=job.device, threads=threads
        )
    finally:
        database.close()


def _engines() -> dict[str, Engine]:
    found = discovery.classes(sys.modules[__name__], Engine)  # type: ignore[type-abstract]
    return {member.name: member() for member in found}


def engine_names() -> tuple[str, ...]:
    """The name of every engine."""
    return tuple(sorted(_engines()))


def check_place(place: Workers) -> None:
    """Raises UsageError where a place is not there, before anything expensive is done."""
    engines = _engines()
    if place.engine not in engines:
        raise UsageError(
            f"`engine` must be one of {', '.join(engine_names())}, not {place.engine!r}."
        )
    for name, value in (("workers", place.workers), ("cpus", place.cpus)):
        if value is not None and value < 1:
            raise UsageError(f"`{name}` must be at least 1, not {value}.")
    engines[place.engine].check(place)


def run_workers(place: Workers, job: Job) -> None:
    """Run workers on a study that was made, with progress, until enough of it is finished.

    Raises:
        UsageError: the place or the study is not there.
        AxsearchError: workers keep failing.
        KeyboardInterrupt: stopped by the user; finished trials are kept.
    """
    check_place(place)
    with _watch(job) as poll:
        _engines()[place.engine].run(place, job, poll)


@contextmanager
def _watch(job: Job) -> Iterator[Callable[[], int]]:
    """What shows how far all workers are, for as long as this is open."""
    study = Study.open(job.storage, job.study)
    storage, began, told = study.database.storage, time.monotonic(), -1
    wanted, _ = study.asked
    with progress_bar() as progress:
        bar = progress.add_task("Searching", total=wanted)

        def poll() -> int:
            nonlocal told
            try:
                with at_once():  # the workers wait, and signals must be seen
                    count = storage.finished(study.id)
                    running = len(storage.others(study.id))
            except Exception as error:
                if not is_of_database(error) or not transient(error):
                    raise
                return max(told, 0)
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
            poll()
            yield poll
        finally:
            study.database.close()
