"""Moments in the user's cache: measured once a machine, read by every later process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from axsearch.approximations.site import SiteId
from axsearch.models.refit import moments as measuring
from axsearch.models.refit.compensation import Moments
from axsearch.system.cache import private_folder
from axsearch.system.staging import staging

PATIENCE = 600.0
"""Seconds to wait for another process that measures the same moments."""

MOST_BYTES = 2 * 2**30
"""Size of the cache; files used longest ago are deleted. BERT-base has half a gigabyte."""


def cached_moments(key: Sequence[str], measure: Callable[[], Moments]) -> Moments:
    """The result of ``measure``, once a machine: later processes read it from the user's cache. So
    not all of several workers measure it, and all compensate with the very same numbers, however
    many threads they have.

    Args:
        key: what moments depend on: fingerprints of model and calibration split, the device.
        measure: see :func:`measure_moments`.
    """
    folder = private_folder("moments")
    if folder is None:
        return measure()
    source = hashlib.sha256(Path(measuring.__file__).read_bytes()).hexdigest()
    made_with = (version("axsearch"), torch.__version__, source)
    name = hashlib.sha256(" ".join([*key, *made_with]).encode()).hexdigest()
    path = folder / f"{name}.safetensors"
    lock: AbstractContextManager[Any]
    try:
        lock = FileLock(folder / "lock", timeout=PATIENCE).acquire()
    except (Timeout, OSError, NotImplementedError):
        lock = nullcontext()  # its holder is stuck, or the file system has no locks
    with lock:
        known = _read(path)
        if known is None:
            known = measure()
            with suppress(OSError, SafetensorError):  # a disk may be full: then nothing is cached
                _write(path, known)
        return known


def _read(path: Path) -> Moments | None:
    try:
        tensors = load_file(path)
        os.utime(path)
    except (OSError, SafetensorError):  # not there, or cut off
        return None
    found: dict[str, dict[SiteId, Tensor]] = {"mean": {}, "covariance": {}, "sensitivity": {}}
    for name, tensor in tensors.items():
        what, _, site = name.partition(" ")
        found[what][SiteId.parse(site)] = tensor
    return Moments(**found)


def _write(path: Path, moments: Moments) -> None:
    tensors = {f"mean {site}": tensor for site, tensor in moments.mean.items()}
    tensors |= {f"covariance {site}": tensor for site, tensor in moments.covariance.items()}
    tensors |= {f"sensitivity {site}": tensor for site, tensor in moments.sensitivity.items()}
    with staging(path.parent, "moments") as folder:
        whole = folder / path.name
        save_file(tensors, whole)
        whole.replace(path)
    total = 0
    for other in sorted(path.parent.glob("*.safetensors"), key=lambda f: -f.stat().st_mtime):
        total += other.stat().st_size
        if total > MOST_BYTES and other != path:
            other.unlink(missing_ok=True)
