"""Ctrl-C, SIGTERM and a lost terminal end a search only at points where nothing is lost."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

OUTPUTS = (1, 2)
"""The descriptors of what a process writes for its user."""

Handler = Callable[[int, FrameType | None], Any]

_open: list[Interrupts] = []


def handled(handler: Handler) -> dict[signal.Signals, Any]:
    """Handle all signals that ask a process to end, and return their handlers of before.

    SIGHUP stays ignored where it was, as under ``nohup``. Else it says that the terminal is gone:
    what would be written to it goes nowhere, or each line of progress would raise OSError.
    """

    def lost(number: int, frame: FrameType | None) -> Any:
        with Path(os.devnull).open("w") as nowhere:
            for output in OUTPUTS:
                if stat.S_ISCHR(os.fstat(output).st_mode):
                    os.dup2(nowhere.fileno(), output)
        return handler(number, frame)

    wanted = [
        kind
        for kind in SIGNALS
        if kind != signal.SIGHUP or signal.getsignal(kind) != signal.SIG_IGN
    ]
    return {
        kind: signal.signal(kind, lost if kind == signal.SIGHUP else handler) for kind in wanted
    }


def stopped() -> bool:
    """Whether a signal has arrived that asks the work of this process to end."""
    return any(one.stopped for one in _open)


def sleep(seconds: float) -> None:
    """Sleep where nothing is lost: a signal that arrives, or has arrived, ends the work here."""
    if _open and threading.current_thread() is threading.main_thread():
        with _open[-1].at_once():
            time.sleep(seconds)
    else:
        time.sleep(seconds)


class Interrupts:
    """While open, a signal raises KeyboardInterrupt in :meth:`at_once` or at the next check.

    A trial is claimed and ended in several steps; if it stopped between them, other workers would
    notice only later. A second signal raises at once. Outside the main thread, where Python
    delivers no signals, this does nothing.

    Attributes:
        stopped: whether a signal arrived. It stays true, and every check raises: a database driver
            that a signal stops within a command may raise an error of its own in place of
            KeyboardInterrupt, and that error may be retried.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._inside = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = handled(self._handle)
            _open.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self in _open:
            _open.remove(self)
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.stopped = self.stopped, True
        if again or self._inside:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has arrived."""
        if self.stopped:
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While open, a signal may stop the work at any point."""
        before, self._inside = self._inside, True
        try:
            self.check()
            yield
        finally:
            self._inside = before
