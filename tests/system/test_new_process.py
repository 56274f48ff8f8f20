"""The process that opens an export: it sees no hub, has limits, and ends with its parent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from axsearch.errors import AxsearchError
from axsearch.system import new_process as checking
from axsearch.system.new_process import DIES_WITH_PARENT, ENDS_WITH_INPUT, GUARD, run_check

IN_NEW_PROCESS = checking.in_new_process  # before the session's fixtures
HANG = "import time\nprint(1.0, flush=True)\nwhile True: time.sleep(0.01)"


@pytest.fixture(autouse=True)
def _in_new_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "in_new_process", IN_NEW_PROCESS)


@pytest.mark.parametrize("guard", [DIES_WITH_PARENT, ENDS_WITH_INPUT])
def test_it_receives_its_arguments_and_nothing_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    monkeypatch.setattr(checking, "GUARD", guard)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    script = (
        "import sys, os\n"
        "assert sys.argv[1:] == [os.environ['WANTED'], 'a', 'b c'], sys.argv\n"
        "assert os.environ['HF_HUB_OFFLINE'] == '1'\n"
        "assert os.getcwd() not in sys.path\n"
        "print('noise'); print(0.25)"
    )
    monkeypatch.setenv("WANTED", str(tmp_path))
    assert run_check(script, tmp_path, "a", "b c") == 0.25


def test_its_last_line_is_told(tmp_path: Path) -> None:
    with pytest.raises(AxsearchError, match="does not open in a new process: ValueError: 3"):
        run_check("raise ValueError(3)", tmp_path)


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_one_that_takes_too_long_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "LONGEST", 0.3)
    before = children()
    with pytest.raises(AxsearchError, match=r"was not open after 0 s, so its process was stopped"):
        run_check(HANG, tmp_path)
    assert children() == before


def test_one_that_takes_too_much_memory_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").write_bytes(b"x" * 10**6)
    monkeypatch.setattr(checking, "MEMORY", 50 * 10**6)
    assert run_check("kept = b'x' * 10**6; print(1.0)", tmp_path) == 1.0
    before = children()
    with pytest.raises(AxsearchError, match=r"took more than 0\.1 GB of memory"):
        run_check(f"kept = bytearray(b'x') * 10**8\n{HANG}", tmp_path)
    assert children() == before


def test_it_is_stopped_where_the_check_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checking, "_limited", interrupted)
    before = children()
    with pytest.raises(KeyboardInterrupt):
        run_check(HANG, tmp_path)
    assert children() == before


# As run_check does it, in a process of its own, which then is killed.
PARENT = """
import os, subprocess, sys
reading, held = os.pipe()
child = subprocess.Popen(
    [sys.executable, "-I", "-c", sys.argv[1], str(os.getpid())],
    stdin=reading, stdout=subprocess.PIPE, text=True,
)
print(child.pid, child.stdout.readline(), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("guard", [DIES_WITH_PARENT, ENDS_WITH_INPUT])
def test_it_ends_when_its_parent_is_killed(guard: str) -> None:
    script = f"{checking.BEGIN}{guard}{HANG}"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline().split()[0]))
        assert child.is_running()
        parent.kill()
    end = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "it goes on without its parent"
        time.sleep(0.01)


def test_one_whose_parent_has_ended_before_ends_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{checking.BEGIN}{DIES_WITH_PARENT}{HANG}", "1"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, b"")


def test_the_guard_is_that_of_this_system() -> None:
    assert (GUARD == DIES_WITH_PARENT) == (sys.platform == "linux")
