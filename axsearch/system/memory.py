"""Keep what was used last, within a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import psutil

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST = 2 << 30
SHARE = 0.25


class RecentlyUsed(Generic[K, V]):
    """A dictionary that forgets what was used least recently once it holds too many bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value, from now on the one used last; None where it is not there."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value of ``size`` bytes; one that is larger than all there is room for is not."""
        self._drop(key)
        if size > self.most:
            return
        self._entries[key] = (value, size)
        self.held += size
        while self.held > self.most:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.held -= entry[1]


def budget(share: float = SHARE, most: int = MOST, free: int | None = None) -> int:
    """Bytes that a cache may take: a share of the memory that is free, at most 2 GiB.

    ``free`` is that of a device with memory of its own; None for the machine's.
    """
    return min(most, int(share * (psutil.virtual_memory().available if free is None else free)))
