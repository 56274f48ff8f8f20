"""Freed memory is used again without being asked of the system, unless the user decided on it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from axsearch.system.allocator import OWN_SETTINGS, keep_freed_memory

SIZE = 40 << 20
PAGES = SIZE // 4096
SCRIPT = f"""
import resource
import numpy as np
from axsearch.system.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.empty({SIZE}, dtype=np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
print(keep_freed_memory(), before, (faults(), faults())[1])
"""

glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(os, "confstr") or not os.confstr("CS_GNU_LIBC_VERSION"),
    reason="another C library",
)


def measured(**settings: str) -> tuple[str, int, int]:
    """Whether memory is kept, and faults of five fills before and after."""
    environment = {k: v for k, v in os.environ.items() if k not in OWN_SETTINGS} | settings
    # numpy asks for huge pages, of which one fault fills 512
    environment["NUMPY_MADVISE_HUGEPAGE"] = "0"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    kept, before, after = done.stdout.split()
    return kept, int(before), int(after)


@glibc
def test_pages_are_not_faulted_in_again() -> None:
    kept, before, after = measured()
    assert kept == "True"
    assert before > 4 * PAGES
    assert after < PAGES / 10


@glibc
@pytest.mark.parametrize("name", OWN_SETTINGS)
def test_what_the_user_set_is_left_alone(name: str) -> None:
    kept, before, after = measured(**{name: str(128 << 10)})
    assert kept == "False"
    assert min(before, after) > 4 * PAGES


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_freed_memory.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
    keep_freed_memory.cache_clear()
