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
        insisted: whether a second signal came. It may have stopped a database driver within a
            command, whose own error then takes the place of KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.insisted = False
        self._stopped = False
        self._pending = False
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
        if self._stopped:
            self.insisted = True
            raise KeyboardInterrupt
        self._pending = self._stopped = True
        if self._inside:
            self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has arrived."""
        if self._pending:
            self._pending = False
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
