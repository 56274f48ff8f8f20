"""This machine: the name under which latencies are comparable, and undisturbed measurements."""

from __future__ import annotations

import os
import platform
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from filelock import ReadWriteLock, Timeout

from axsearch.progress import console
from axsearch.system.cache import private_folder

PACKAGES = ("axsearch", "torch", "transformers", "optuna")

PATIENCE = 600.0
"""Seconds for which a measurement waits for evaluations to end, and evaluations for it."""


def machine_name() -> str:
    """Host, processor kind, cores and torch version: latencies with the same name compare."""
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{platform.node()}, {platform.machine()} {capability}, {os.cpu_count()} cores, "
        f"torch {torch.__version__}"
    )


def machine_facts() -> dict[str, Any]:
    """Facts about this machine: the other columns of ``ax_machines``."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "host": platform.node(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "cores": os.cpu_count(),
        "gpu": gpu,
        "memory_bytes": psutil.virtual_memory().total,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
    }


@contextmanager
def evaluating() -> Iterator[None]:
    """While open, no process of this user times a model on this machine.

    It waits at most ten minutes for one that is already timing.
    """
    with _held("read", "Evaluating beside a process that measures and does not end."):
        yield


@contextmanager
def measuring() -> Iterator[None]:
    """While open, no other process of this user evaluates recipes or times a model on this machine.

    It waits at most ten minutes for one that is already evaluating or timing.
    """
    with _held("write", "Measuring beside another process, which did not end."):
        yield


def _held(way: Literal["read", "write"], otherwise: str) -> AbstractContextManager[Any]:
    folder = _lock_folder()
    if folder is None:
        _say_that_nothing_waits()
        return nullcontext()
    lock = ReadWriteLock(str(folder / "measuring.lock"))
    acquire = lock.acquire_read if way == "read" else lock.acquire_write
    try:
        return acquire(timeout=PATIENCE)
    except Timeout:
        console.print(otherwise, style="yellow")
        return nullcontext()


def _lock_folder() -> Path | None:
    """The folder of this user's lock on this machine; None if none can be had.

    Everybody knows its name in the temporary folder, and may have made it first, to hold the lock
    or to lead elsewhere by a link. Then it is in the cache, which machines may share.
    """
    folder = Path(tempfile.gettempdir()) / f"axsearch-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        others = found.st_mode & 0o077  # whoever can read the lock can hold it
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not others:
            return folder
    return private_folder(f"locks-{platform.node()[:80]}")


@cache
def _say_that_nothing_waits() -> None:
    console.print(
        f"Measurements do not wait for other processes of this user: {tempfile.gettempdir()} and "
        "the cache have no folder that only this user can open; set TMPDIR to one.",
        style="yellow",
    )
