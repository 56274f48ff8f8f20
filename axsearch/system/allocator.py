"""Memory that tensors give back stays with the process, ready for the next pass."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

MMAP_THRESHOLD = -3
TRIM_THRESHOLD = -1
"""Names of mallopt's parameters (malloc.h)."""

LARGEST_KEPT = 256 << 20
"""Bytes of the largest block that is kept: activations of one layer are smaller."""

MOST_KEPT = 1 << 30
"""Bytes at the end of the heap above which glibc returns them to the system."""

OWN_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep the memory of freed tensors, for the rest of the process, and say whether.

    By default it returns large blocks to the system, and the next layer's activations are mapped,
    zeroed and faulted in again, page by page: a fifth to a quarter of a pass of a model on a CPU
    (docs/how-it-is-measured.md). Worse for a measurement, whether that happens to a block depends
    on what the process freed before and on its size, so that one size of a block may seem a fifth
    slower than the next smaller one for no reason of its own. Nothing is done where the user has
    set the thresholds, and on systems without glibc.
    """
    if sys.platform != "linux" or any(name in os.environ for name in OWN_SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(TRIM_THRESHOLD, MOST_KEPT))
