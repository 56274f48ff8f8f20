"""Keeps the memory of freed tensors in the process, ready for the next pass."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

MMAP_THRESHOLD = -3
TRIM_THRESHOLD = -1
"""Names of mallopt's parameters (malloc.h)."""

LARGEST_KEPT = 256 << 20
"""Bytes of the largest block that is kept; BERT-base's widest activations on 32 x 512 tokens have
201 MB."""

LARGEST_THAT_MAY_BE = 32 << 20
"""The most that older releases of glibc take for that."""

MOST_KEPT = 1 << 30
"""Bytes at the end of the heap above which glibc returns them to the system."""

OWN_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
TUNABLES = "GLIBC_TUNABLES"


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep the memory of freed tensors for the rest of the process.

    By default it returns large blocks to the system, and the next layer's activations are mapped,
    zeroed and faulted in again, page by page (``studies/benchmarks/allocator.py`` has the cost).
    Worse for a measurement, whether that happens to a block depends on its size and on what the
    process freed before, so that one size of a block may seem a fifth slower than the next smaller
    one for no reason of its own. It is the main thread's memory that is kept; tensors are made
    there.

    Returns:
        Whether glibc accepted it. It is not asked where the user has set its thresholds, and there
        is nothing to ask on systems without glibc.
    """
    if sys.platform != "linux" or any(name in os.environ for name in OWN_SETTINGS):
        return False
    if "glibc.malloc" in os.environ.get(TUNABLES, ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    kept = mallopt(MMAP_THRESHOLD, LARGEST_KEPT) or mallopt(MMAP_THRESHOLD, LARGEST_THAT_MAY_BE)
    return bool(mallopt(TRIM_THRESHOLD, MOST_KEPT) and kept)
