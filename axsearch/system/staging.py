"""A folder to write to beside the place of what is written, which a killed process cannot leave."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from axsearch.system.interrupts import Interrupts

LOCK = "axsearch-writing.lock"
"""The file in such a folder that its process holds locked for as long as it runs."""

YOUNG = 60.0
"""Seconds in which a new folder is left alone: its process may not have locked it yet."""


@contextmanager
def staging(parent: Path, name: str) -> Iterator[Path]:
    """A new, empty folder that is removed at the end with what is still in it.

    Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt within, so that they remove it too. What
    killed processes have left in ``parent`` is removed first. Raises OSError where it cannot be
    made.

    Args:
        parent: where it is made, hidden; what is complete can be moved from there in one step.
        name: what its name begins with.
    """
    _remove_left(parent)
    made = tempfile.TemporaryDirectory(prefix=f".{name}-", dir=parent, ignore_cleanup_errors=True)
    with Interrupts() as interrupts, interrupts.at_once(), made as hidden, _locked(Path(hidden)):
        inside = Path(hidden) / "content"
        inside.mkdir()
        yield inside


def _locked(folder: Path) -> AbstractContextManager[Any]:
    lock = folder / LOCK
    try:
        return FileLock(lock, timeout=0).acquire()
    except (Timeout, OSError, NotImplementedError):  # a file system without locks
        lock.unlink(missing_ok=True)  # and nobody takes the folder for one that was left
        return nullcontext()


def _remove_left(parent: Path) -> None:
    for lock in parent.glob(f".*/{LOCK}"):
        folder = lock.parent
        with suppress(Timeout, OSError, NotImplementedError):
            found = folder.lstat()
            if folder.is_symlink() or abs(time.time() - found.st_mtime) < YOUNG:
                continue
            with FileLock(lock, timeout=0):
                shutil.rmtree(folder)
