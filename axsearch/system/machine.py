"""This machine: the name under which latencies are comparable, and undisturbed measurements."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from filelock import ReadWriteLock, Timeout

from axsearch.progress import console

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
    with _patient(
        _lock().acquire_read, "Evaluating beside a process that measures and does not end."
    ):
        yield


@contextmanager
def measuring() -> Iterator[None]:
    """While open, no other process of this user evaluates recipes or times a model on this machine.

    It waits at most ten minutes for one that is already evaluating or timing.
    """
    with _patient(_lock().acquire_write, "Measuring beside another process, which did not end."):
        yield


def _patient(
    acquire: Callable[..., AbstractContextManager[Any]], otherwise: str
) -> AbstractContextManager[Any]:
    try:
        return acquire(timeout=PATIENCE)
    except Timeout:
        console.print(otherwise, style="yellow")
        return nullcontext()


def _lock() -> ReadWriteLock:
    folder = Path(tempfile.gettempdir()) / f"axsearch-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return ReadWriteLock(str(folder / "measuring.lock"))
