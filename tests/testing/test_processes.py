"""Processes as tests start them: several at once, and none of this process's ways is left."""

from __future__ import annotations

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from axsearch.testing.processes import run, server, spawned_by_the_server


def test_threads_may_ask_at_the_same_time() -> None:
    server()
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda i: run("-c", f"print({i})", check=True).stdout, range(16))
    assert [int(said) for said in found] == [*range(16)]


def test_what_opens_exports_has_not_imported_axsearch() -> None:
    said = "import sys; print(sorted(name for name in sys.modules if name.startswith('axsearch')))"
    assert run("-c", said, check=True, for_exports=True).stdout.strip() == "[]"
    assert run("-c", said, check=True).stdout.strip() != "[]"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_after_an_error_orphans_are_not_adopted() -> None:
    def adopts() -> bool:
        get_child_subreaper, found = 37, ctypes.c_int()
        assert ctypes.CDLL(None).prctl(get_child_subreaper, ctypes.byref(found), 0, 0, 0) == 0
        return bool(found.value)

    with spawned_by_the_server():
        assert adopts()
    with pytest.raises(ZeroDivisionError), spawned_by_the_server():
        1 / 0  # noqa: B018
    assert not adopts()
