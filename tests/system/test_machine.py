"""Latency is measured while nothing else of axsearch runs on the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from axsearch.system import machine
from axsearch.system.machine import evaluating, measuring
from axsearch.testing.processes import Process

WAYS = {"evaluating": evaluating, "measuring": measuring}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(machine, "PATIENCE", 0.5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    machine._say_that_nothing_waits.cache_clear()


@contextmanager
def another(way: str) -> Iterator[None]:
    """While open, another process evaluates or measures."""
    code = (
        f"from axsearch.system.machine import {way}\n"
        f"with {way}():\n print('in', flush=True); input()"
    )
    with Process("-c", code) as process:
        assert process.stdout.readline() == "in\n"
        yield
        process.stdin.write("\n")


@pytest.mark.parametrize(
    ("theirs", "ours", "waits"),
    [
        ("evaluating", "evaluating", False),
        ("evaluating", "measuring", True),
        ("measuring", "evaluating", True),
        ("measuring", "measuring", True),
    ],
)
def test_who_waits_for_whom_and_not_for_ever(
    theirs: str, ours: str, waits: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with another(theirs), WAYS[ours]():
        said = capsys.readouterr().err
    assert (f"{ours.capitalize()} beside" in said) == waits
    with WAYS[ours]():  # once it is free nobody waits
        assert not capsys.readouterr().err


# The name of the lock's folder in the temporary folder is known to every user of the machine.


def _readable(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)  # to lock a file it is enough to read it


def _writable(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def _linked(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)


def _linked_to_nothing(folder: Path) -> None:
    folder.symlink_to(folder.parent / "nothing")


def _file(folder: Path) -> None:
    folder.touch(0o600)


def _foreign(folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make a folder of another user")
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)


HOLD = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1])
held.execute("BEGIN EXCLUSIVE")
print("in", flush=True)
input()
"""


@pytest.mark.parametrize(
    "made", [_readable, _writable, _linked, _linked_to_nothing, _file, _foreign]
)
def test_a_folder_that_somebody_else_made_first_stops_and_delays_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: Callable[[Path], None]
) -> None:
    folder = tmp_path / f"axsearch-{os.getuid()}"
    made(folder)
    if folder.is_dir():
        with Process("-c", HOLD, str(folder / "measuring.lock")) as holder:
            assert holder.stdout.readline() == "in\n"
            with measuring():
                assert not capsys.readouterr().err
            holder.stdin.write("\n")
    with another("measuring"), evaluating():  # this user's processes still wait for each other
        assert "Evaluating beside" in capsys.readouterr().err
    (lock,) = (tmp_path / "cache").rglob("measuring.lock")
    assert lock.parent.stat().st_mode & 0o777 == 0o700


def test_without_any_folder_of_its_own_it_says_so_once_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _writable(tmp_path / f"axsearch-{os.getuid()}")
    (tmp_path / "cache").touch()
    for _ in range(3):
        with evaluating():
            pass
    said = capsys.readouterr().err
    assert said.count("Measurements do not wait") == 1
    assert "set TMPDIR" in said


def test_a_folder_of_its_own_is_used(tmp_path: Path) -> None:
    with measuring():
        assert (tmp_path / f"axsearch-{os.getuid()}" / "measuring.lock").exists()
    assert not (tmp_path / "cache").exists()
