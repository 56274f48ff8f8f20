"""Freed memory is used again without being asked of the system, unless the user decided on it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from axsearch.runtimes.torch import TorchSession
from axsearch.system import allocator
from axsearch.system.allocator import OWN_SETTINGS, TUNABLES, keep_freed_memory
from axsearch.tasks import pretrained
from axsearch.tasks.kinds import task_kinds
from axsearch.testing.text import tiny_bert

SIZE = 20 << 20
PAGES = SIZE // resource.getpagesize()
SCRIPT = f"""
import ctypes, resource
import numpy as np
from axsearch.system.allocator import MMAP_THRESHOLD, TRIM_THRESHOLD, keep_freed_memory

libc = ctypes.CDLL(None)
pr_set_thp_disable = 41  # one fault would map many pages
libc.prctl(pr_set_thp_disable, 1, 0, 0, 0)
for parameter in (MMAP_THRESHOLD, TRIM_THRESHOLD):  # as a process begins
    libc.mallopt(parameter, 128 << 10)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.empty({SIZE}, dtype=np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
print(keep_freed_memory(), before, (faults(), faults())[1])
"""

glibc = pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""),
    reason="another C library",
)


def measured(**settings: str) -> tuple[str, int, int]:
    """Whether memory is kept, and faults of five fills before and after."""
    own = (*OWN_SETTINGS, TUNABLES)
    environment = {k: v for k, v in os.environ.items() if k not in own} | settings
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
@pytest.mark.parametrize("name", [*OWN_SETTINGS, TUNABLES])
def test_what_the_user_set_is_left_alone(name: str) -> None:
    value = "glibc.malloc.mmap_threshold=131072" if name == TUNABLES else "131072"
    kept, before, after = measured(**{name: value})
    assert kept == "False"
    assert min(before, after) > 4 * PAGES


@pytest.fixture
def asked_anew() -> Iterator[None]:
    keep_freed_memory.cache_clear()
    yield
    keep_freed_memory.cache_clear()


@pytest.mark.usefixtures("asked_anew")
def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


@pytest.mark.usefixtures("asked_anew")
def test_without_mallopt_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()


@pytest.mark.usefixtures("asked_anew")
def test_older_releases_keep_what_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    class Older:
        @staticmethod
        def mallopt(parameter: int, value: int) -> int:
            if parameter == allocator.MMAP_THRESHOLD and value > 32 << 20:
                return 0
            taken.append((parameter, value))
            return 1

    monkeypatch.setattr(sys, "platform", "linux")
    for name in (*OWN_SETTINGS, TUNABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: Older)
    assert keep_freed_memory()
    assert taken == [(-3, 32 << 20), (-1, 1 << 30)]


def test_it_is_kept_wherever_a_model_begins(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = []
    monkeypatch.setattr(pretrained, "keep_freed_memory", lambda: began.append("loaded"))
    monkeypatch.setattr("axsearch.runtimes.torch.keep_freed_memory", lambda: began.append("opened"))
    auto_class = task_kinds()["text-classification"].auto_class
    pretrained.load_model(str(base_dir), auto_class)
    assert began == ["loaded"]
    TorchSession(tiny_bert(), None, "cpu").close()
    assert began == ["loaded", "opened"]
