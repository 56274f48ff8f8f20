"""Tensors in files of the user's cache: computed once a machine, read by every later process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from axsearch.system.cache import private_folder
from axsearch.system.staging import staging

PATIENCE = 600.0
"""Seconds to wait for another process that computes the same tensors."""


class TensorFiles:
    """A folder of safetensors files in the user's cache, of limited size.

    Files used longest ago are deleted. Where there is no folder, or its disk is full, nothing is
    kept, and nothing fails.

    Args:
        name: of the folder.
        most: bytes of all files.
        sources: Python files that compute the tensors: what other versions of these files computed
            is not read.
    """

    def __init__(self, name: str, most: int, sources: Sequence[str]) -> None:
        self._name, self._most = name, most
        self._made_with = [version("axsearch"), torch.__version__]
        self._made_with += [hashlib.sha256(Path(s).read_bytes()).hexdigest() for s in sources]

    def read(self, key: Sequence[str]) -> dict[str, Tensor] | None:
        """The tensors that were written under a key, on the CPU; None where there are none."""
        path = self._path(key)
        try:
            if path is None:
                return None
            tensors: dict[str, Tensor] = load_file(path)
            os.utime(path)
        except (OSError, SafetensorError):  # not there, or cut off
            return None
        return tensors

    def write(self, key: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a key, if that can be done."""
        path = self._path(key)
        if path is None:
            return
        with suppress(OSError, SafetensorError):  # a disk may be full: then nothing is kept
            with staging(path.parent, self._name) as folder:
                whole = folder / path.name
                save_file({name: t.contiguous() for name, t in tensors.items()}, whole)
                whole.replace(path)
            self._tidy(path)

    def once(
        self, key: Sequence[str], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """What was kept under a key; where nothing was, the result of ``compute``, which is kept.

        Of several processes that need it at once, one computes it and the others wait.
        """
        path = self._path(key)
        if path is None:
            return compute()
        lock: AbstractContextManager[Any]
        try:
            lock = FileLock(path.parent / "lock", timeout=PATIENCE).acquire()
        except (Timeout, OSError, NotImplementedError):
            lock = nullcontext()  # its holder is stuck, or the file system has no locks
        with lock:
            known = self.read(key)
            if known is None:
                known = compute()
                self.write(key, known)
            return known

    def _path(self, key: Sequence[str]) -> Path | None:
        folder = private_folder(self._name)
        if folder is None:
            return None
        name = hashlib.sha256(" ".join([*key, *self._made_with]).encode()).hexdigest()
        return folder / f"{name}.safetensors"

    def _tidy(self, kept: Path) -> None:
        """Delete files used longest ago where all are too large, but not the one just written."""
        total = 0
        for file in sorted(kept.parent.glob("*.safetensors"), key=lambda f: -f.stat().st_mtime):
            total += file.stat().st_size
            if total > self._most and file != kept:
                file.unlink(missing_ok=True)
