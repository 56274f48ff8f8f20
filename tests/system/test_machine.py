"""Latency is measured while nothing else of axsearch runs on the machine."""

from __future__ import annotations

from collections.abc import Iterator
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
