"""The memory that is free, and caches of tensors that take a limited part of it."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
from cachetools import LRUCache
from torch import Tensor

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")

MOST = 2 << 30
SHARE = 0.25


class TensorCache(LRUCache[K, V]):
    """Tensors, also in tuples and mappings, of at most ``maxsize`` bytes altogether.

    A new value takes the place of those least recently read or written. A value larger than the
    whole cache is not stored, and nothing is removed for it but an older value of its key.
    """

    def __setitem__(self, key: K, value: V) -> None:
        """Store a value if it fits; LRUCache alone would raise ValueError if it does not."""
        if self.getsizeof(value) > self.maxsize:
            self.pop(key, None)
        else:
            super().__setitem__(key, value)

    @staticmethod
    def getsizeof(value: Any) -> int:
        """The bytes of a tensor, or of all that are in a tuple or mapping, at any depth."""
        if isinstance(value, Tensor):
            return value.nbytes
        parts = value.values() if isinstance(value, Mapping) else value
        held = isinstance(value, tuple | Mapping)
        return sum(map(TensorCache.getsizeof, parts)) if held else 0


def budget(share: float = SHARE, most: int = MOST, free: int | None = None) -> int:
    """Bytes that a cache may take: a share of the memory that is free, at most 2 GiB.

    ``free`` is that of a device with memory of its own; None for the machine's.
    """
    return min(most, int(share * (available() if free is None else free)))


def available() -> int:
    """Bytes of memory that this process may still take, on this machine and in its container."""
    return min([psutil.virtual_memory().available, *_left_in_groups()])


def obtainable() -> int:
    """The most bytes that this process could get, if others were swapped out; it may be slow."""
    machine = psutil.virtual_memory()
    if sys.platform != "linux":  # swap grows there, memory is compressed
        return int(machine.total)
    return min([machine.available + psutil.swap_memory().free, *_left_in_groups()])


def _left_in_groups() -> Iterator[int]:
    """What is left in each control group with a limit that this process is in (version 2)."""
    with suppress(OSError):
        lines = OWN_GROUP.read_text().splitlines()
        own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
        for folder in (GROUPS / own, *(GROUPS / own).parents):
            with suppress(OSError, ValueError):  # without a limit it says max
                most = int((folder / "memory.max").read_text())
                used = int((folder / "memory.current").read_text())
                yield max(0, most - used + _reclaimable(folder))


def _reclaimable(folder: Path) -> int:
    """Bytes of files that a group counts as used and gives up when it needs them."""
    lines = (folder / "memory.stat").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
