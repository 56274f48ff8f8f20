from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from axsearch import progress
from axsearch.progress import QUIET, console, progress_bar, silenced, steps


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    made = Console(force_terminal=True, record=True, width=100, color_system=None)
    monkeypatch.setattr(progress, "console", made)
    return made


def test_steps_are_counted_as_the_next_one_begins(terminal: Console) -> None:
    with steps(2) as begin:
        begin("Reading")
        begin("Writing")
    shown = terminal.export_text()
    assert re.search(r"Writing .* 2/2 ", shown)


def test_a_step_that_fails_is_not_done(terminal: Console) -> None:
    def fail() -> None:
        with steps(2) as begin:
            begin("Reading")
            begin("Writing")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert re.search(r"Writing .* 1/2 ", terminal.export_text())


def test_bars_show_the_time_that_is_left(terminal: Console) -> None:
    with progress_bar() as bar:
        bar.update(bar.add_task("Working", total=4), completed=2)
    assert re.search(r"Working .* 2/4 \d:\d\d:\d\d (\d|-):", terminal.export_text())


def test_nothing_is_drawn_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with steps(1) as begin:
        begin("Reading")
    assert capsys.readouterr().err == ""


def test_silence_ends_and_reaches_processes_started_meanwhile(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(QUIET, raising=False)
    script = "from axsearch.progress import console; console.print('said')"

    def said() -> str:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        return done.stderr

    with silenced():
        console.print("one")
        assert said() == ""
    console.print("two")
    assert said() == "said\n"
    with silenced(False):
        console.print("three")
    assert QUIET not in os.environ
    assert capsys.readouterr().err == "two\nthree\n"


def test_an_environment_that_was_quiet_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUIET, "1")
    with silenced():
        pass
    assert os.environ[QUIET] == "1"
