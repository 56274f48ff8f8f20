"""Workers as processes of this machine; one that dies is restarted, with back-off."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import ClassVar

import psutil

from axsearch.errors import AxsearchError, UsageError
from axsearch.progress import console
from axsearch.running.engines import Engine, be_worker
from axsearch.running.request import WorkerPool, WorkerRequest
from axsearch.store.outages import DatabaseAwayError
from axsearch.system.cores import THREAD_VARIABLES, processors
from axsearch.system.interrupts import handled

FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0
"""Seconds before a worker is restarted: doubled each time, up to the longest."""

MOST_DEATHS = 6
"""The run ends when a worker dies this many times without a finished trial between."""

ENDING = 60.0
"""Seconds that workers have to end in after a signal."""

INTERRUPTED = 130
"""Exit status of a worker after a signal. If its supervisor got none, it starts another."""

TICK = 0.2

WorkerMain = Callable[[WorkerRequest, int], None]
"""What a worker's process runs: a request, with this number of threads."""


class Local(Engine):
    """Runs workers on this machine.

    Args:
        target: the function that each process runs.
    """

    name: ClassVar[str] = "local"

    def __init__(self, target: WorkerMain = be_worker) -> None:
        self.target = target

    def check(self, pool: WorkerPool) -> None:
        """More workers than processors are refused: torch's threads would wait for each other."""
        if pool.address is not None or pool.gpus:
            raise UsageError('`address` and `gpus` are for `engine="ray"`.')
        cores = processors()
        if pool.workers * (pool.cpus or 1) > cores:
            raise UsageError(
                f"{pool.workers} workers of {pool.cpus or 1} threads are more than the "
                f"{cores} processors of this machine; give fewer `workers`."
            )

    def run(self, pool: WorkerPool, request: WorkerRequest, poll: Callable[[], int]) -> None:
        """See :class:`axsearch.running.engines.Engine`."""
        threads = pool.cpus or max(1, processors() // pool.workers)
        with tempfile.TemporaryDirectory(prefix="axsearch-") as logs, _signals() as stop:
            workers = [
                _Supervised(n, self.target, request, threads, Path(logs) / f"{n}.log")
                for n in range(1, pool.workers + 1)
            ]
            count = 0
            try:
                while not all(worker.ended for worker in workers):
                    for worker in workers:
                        worker.look()
                    if stop.signals:
                        raise KeyboardInterrupt
                    before, count = count, poll()
                    if count > before:
                        for worker in workers:
                            worker.deaths = 0
                    time.sleep(TICK)
            finally:
                _end(workers, stop)


@dataclass
class _Stop:
    signals: int = 0


@contextmanager
def _signals() -> Iterator[_Stop]:
    """Count the signals that ask for an end; :func:`_end` passes them on to the workers."""
    stop = _Stop()

    def count(*_: object) -> None:
        stop.signals += 1

    before = handled(count)
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _end(workers: list[_Supervised], stop: _Stop) -> None:
    """Terminate the workers that still run; kill them after a while, or at a second signal."""
    running = [w.process for w in workers if w.process is not None and w.process.is_alive()]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + ENDING
    while any(process.is_alive() for process in running):
        if time.monotonic() > deadline or stop.signals > 1:
            for process in running:
                process.kill()
            break
        time.sleep(TICK / 4)
    for process in running:
        process.join()


@dataclass
class _Supervised:
    """One worker: a series of processes, each started after the one before it died."""

    number: int
    target: WorkerMain
    request: WorkerRequest
    threads: int
    log: Path
    process: SpawnProcess | None = None
    ended: bool = False
    deaths: int = 0
    _words: Connection | None = None
    _next: float = 0.0

    def look(self) -> None:
        """Start the process, or start it again where it died; raises AxsearchError in the end."""
        if self.ended:
            return
        if self.process is None:
            if time.monotonic() >= self._next:
                self._start()
            return
        if self.process.is_alive():
            return
        self.process.join()
        code, said = self.process.exitcode, self._said()
        self.process = None
        if code == 0:
            self.ended = True
            return
        if said is not None:  # it knows the reason, and another one would fail the same way
            raise (UsageError if said[0] == UsageError.exit_status else AxsearchError)(said[1])
        self.deaths += 1
        why = self._why(code)
        if self.deaths >= MOST_DEATHS:
            raise AxsearchError(
                f"Worker {self.number} died {self.deaths} times in a row, at last {why}; run the "
                "same command to continue."
            )
        delay = min(FIRST_DELAY * 2 ** (self.deaths - 1), LONGEST_DELAY)
        self._next = time.monotonic() + delay
        console.print(
            f"Worker {self.number} died, {why}; it is started again in {delay:g} s.",
            style="yellow",
        )

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._words, words = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_child,
            args=(self.target, self.request, self.threads, str(self.log), words),
            name=f"axsearch-worker-{self.number}",
        )
        with _environment(self.threads):
            self.process.start()
        words.close()

    def _said(self) -> tuple[int, str] | None:
        assert self._words is not None
        with self._words, suppress(EOFError, OSError):
            if self._words.poll():
                return self._words.recv()  # type: ignore[no-any-return]
        return None

    def _why(self, code: int | None) -> str:
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
            return f"killed by {name}{hint}"
        last = (
            self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        )
        return f"with exit status {code}" + (f" and the words: {last[-1]}" if last else "")


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Set a child's environment before it loads the libraries that read it."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _child(
    target: WorkerMain, request: WorkerRequest, threads: int, log: str, words: Connection
) -> None:
    """A worker's process: its output goes into a file, its error to the supervisor."""
    os.setpgid(0, 0)  # Ctrl-C in a terminal is for the supervisor, which signals its workers once
    _quiet(log)
    _end_with_parent()
    try:
        target(request, threads)
    except DatabaseAwayError as error:
        sys.exit(str(error))  # another one may find it there
    except AxsearchError as error:
        words.send((error.exit_status, str(error)))
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)  # the trial was given back


def _quiet(log: str) -> None:
    with Path(log).open("a") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


def _end_with_parent() -> None:
    """End as after a signal when the supervisor has died, so that no worker is left behind."""
    parent = psutil.Process(os.getppid())

    def watch() -> None:
        while parent.is_running() and os.getppid() == parent.pid:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent").start()
