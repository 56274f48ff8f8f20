"""Ctrl-C and SIGTERM end a search only at points where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {kind: signal.signal(kind, self._handle) for kind in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)  # type: ignore[arg-type]

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
        self._inside = True
        try:
            self.check()
            yield
        finally:
            self._inside = False
