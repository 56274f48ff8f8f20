"""Caches of tensors that are limited in bytes, and how many bytes they may take."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, TypeVar

import psutil
from cachetools import LRUCache
from torch import Tensor

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST = 2 << 30
SHARE = 0.25


class TensorCache(LRUCache[K, V]):
    """Tensors, or tuples with tensors in them, of at most ``maxsize`` bytes altogether.

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
        """The bytes of a tensor, or of the tensors in a tuple."""
        parts = value if isinstance(value, tuple) else (value,)
        return sum(part.nbytes for part in parts if isinstance(part, Tensor))


def budget(share: float = SHARE, most: int = MOST, free: int | None = None) -> int:
    """Bytes that a cache may take: a share of the memory that is free, at most 2 GiB.

    ``free`` is that of a device with memory of its own; None for the machine's.
    """
    return min(most, int(share * (psutil.virtual_memory().available if free is None else free)))
