from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from axsearch.system import interrupts
from axsearch.system.interrupts import Interrupts


def test_a_sleep_ends_with_a_signal_that_arrives_or_has_arrived() -> None:
    with Interrupts():
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
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
