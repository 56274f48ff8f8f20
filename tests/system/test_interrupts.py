from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from axsearch.system import interrupts
from axsearch.system.interrupts import Interrupts


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
def test_a_sleep_ends_with_a_signal_that_arrives_or_has_arrived(kind: signal.Signals) -> None:
    with Interrupts():
        timer = threading.Timer(0.1, os.kill, (os.getpid(), kind))
        timer.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            interrupts.sleep(20)
        with pytest.raises(KeyboardInterrupt):
            interrupts.sleep(20)
        assert time.monotonic() - began < 10
        assert interrupts.stopped()
        timer.join()
    assert not interrupts.stopped()
    interrupts.sleep(0)


LOSES = """
import signal, sys, time
from axsearch.system.interrupts import Interrupts
with Interrupts() as stop:
    open(sys.argv[1] + "-ready", "w").close()
    while not stop.stopped:
        time.sleep(0.01)
    print("a line of progress", file=sys.stderr, flush=True)
    print("another", flush=True)
open(sys.argv[1], "w").close()
"""


def test_work_is_ended_in_order_when_the_terminal_is_gone(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LOSES, tmp_path / "ended"], stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ended-ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0
    assert (tmp_path / "ended").exists()


def test_a_lost_terminal_is_ignored_where_it_was() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by nohup
    try:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
            interrupts.sleep(0)
            assert not interrupts.stopped()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_sleep_on() -> None:
    slept = []

    def sleep() -> None:
        interrupts.sleep(0.01)
        slept.append(True)

    with Interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        thread = threading.Thread(target=sleep)
        thread.start()
        thread.join()
    assert slept


def test_work_that_a_signal_may_stop_can_still_be_stopped_after_a_sleep_within() -> None:
    with Interrupts() as stop, stop.at_once():
        interrupts.sleep(0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
