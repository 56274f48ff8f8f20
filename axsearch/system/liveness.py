"""The name of a worker's process, and whether it is still running."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import psutil


def worker_name() -> str:
    """A name that no other process ever has: ``host|where|pid|start``."""
    process = psutil.Process()
    return f"{platform.node()[:80]}|{_where()}|{process.pid}|{_started(process)}"


def is_dead(worker: str) -> bool:
    """Whether a worker, named by :func:`worker_name`, ran here and has ended.

    False for a worker on another machine or in another container, of which nothing is known.
    """
    return _runs(worker) is False


def is_alive(worker: str) -> bool:
    """Whether a worker runs here; False for one of which nothing is known."""
    return _runs(worker) is True


def _runs(worker: str) -> bool | None:
    """Whether a worker runs here, None where nothing is known of it."""
    parts = worker.rsplit("|", 3)
    if len(parts) != 4 or parts[1] != _where():
        return None
    try:
        process = psutil.Process(int(parts[2]))
        return _started(process) == parts[3] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, ValueError):
        return None


def _started(process: psutil.Process) -> str:
    """The start time of a process, which does not change if the clock is set."""
    try:
        # Ticks since the boot, the 22nd field; the second is a name that may contain anything.
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return fields[19]
    except FileNotFoundError:
        return f"{process.create_time():.2f}"


@cache
def _where() -> str:
    # Process ids are comparable within this boot and this container.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return f"{platform.node()}-{psutil.boot_time():.0f}"
