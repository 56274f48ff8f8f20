"""Supervision of workers, with targets that cost nothing; real workers are in tests/faults."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from axsearch.errors import AxsearchError, UsageError
from axsearch.running import engines
from axsearch.running.engines import check_pool, local
from axsearch.running.engines.local import Local
from axsearch.running.request import WorkerPool, WorkerRequest
from axsearch.store.outages import outlast
from axsearch.store.work_storage import WorkStorage
from axsearch.testing.processes import Process, spawned_by_the_server
from tests.faults.studies import NAME, SET_SETTINGS, SETTINGS, edit, make


def started(job: WorkerRequest) -> int:
    """How many processes have begun, this one among them."""
    marks = Path(job.storage)
    (marks / f"{os.getpid()}").touch()
    return len(list(marks.iterdir()))


# What processes do: at the top level, for they are started anew.


def well(job: WorkerRequest, threads: int) -> None:
    started(job)
    own_group = os.getpgid(0) == os.getpid()  # or a terminal's Ctrl-C would reach it too
    said = f"{threads} {os.environ['OMP_NUM_THREADS']} {own_group}"
    (Path(job.storage) / f"{os.getpid()}").write_text(said)


def dies_twice(job: WorkerRequest, threads: int) -> None:
    if started(job) < 3:
        os.kill(os.getpid(), signal.SIGKILL)


def always_dies(job: WorkerRequest, threads: int) -> None:
    started(job)
    print("the last words", file=sys.stderr)
    sys.exit(7)


def knows_why(job: WorkerRequest, threads: int) -> None:
    started(job)
    raise AxsearchError("5 of the last 5 trials failed.")


def wrong_use(job: WorkerRequest, threads: int) -> None:
    raise UsageError("There is no such study.")


def runs_on(job: WorkerRequest, threads: int) -> None:
    started(job)
    time.sleep(60)


def deaf(job: WorkerRequest, threads: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    started(job)
    time.sleep(60)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers start again, and start at all, in a moment."""
    monkeypatch.setattr(local, "FIRST_DELAY", 0.05)
    with spawned_by_the_server():
        yield


@pytest.fixture
def job(tmp_path: Path) -> WorkerRequest:
    return WorkerRequest(str(tmp_path), "study")


def begun(job: WorkerRequest) -> list[Path]:
    return list(Path(job.storage).iterdir())


def run(
    target: Callable[[WorkerRequest, int], None],
    job: WorkerRequest,
    workers: int = 1,
    poll: Callable[[], int] = int,
) -> None:
    Local(target).run(WorkerPool(workers, cpus=3), job, poll)


def test_all_run_with_the_threads_that_they_are_to_have(job: WorkerRequest) -> None:
    run(well, job, 2)
    assert [mark.read_text() for mark in begun(job)] == ["3 3 True", "3 3 True"]
    assert os.environ.get("OMP_NUM_THREADS") != "3"


def test_one_that_died_is_started_again(
    job: WorkerRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    run(dies_twice, job)
    assert len(begun(job)) == 3
    died = "Worker 1 died, killed by SIGKILL (out of memory, perhaps); it is started again in"
    assert capsys.readouterr().err.splitlines() == [f"{died} 0.05 s.", f"{died} 0.1 s."]


def test_the_delay_doubles_and_in_the_end_the_run_fails_with_the_last_words(
    job: WorkerRequest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MOST_DEATHS", 4)
    monkeypatch.setattr(local, "FIRST_DELAY", 0.25)
    monkeypatch.setattr(local, "LONGEST_DELAY", 0.5)
    with pytest.raises(AxsearchError, match="died 4 times in a row, at last with exit status 7 and "
                       "the words: the last words"):  # fmt: skip
        run(always_dies, job)
    delays = [line.split()[-2] for line in capsys.readouterr().err.splitlines()]
    assert delays == ["0.25", "0.5", "0.5"]


def test_deaths_do_not_count_while_trials_are_finished(
    job: WorkerRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MOST_DEATHS", 2)
    run(dies_twice, job, poll=lambda: len(begun(job)))
    assert len(begun(job)) == 3


def test_one_that_knows_why_is_not_started_again_and_the_others_are_ended(
    job: WorkerRequest,
) -> None:
    with pytest.raises(AxsearchError, match="5 of the last 5"):
        run(knows_why, job, 2)
    assert len(begun(job)) <= 2
    with pytest.raises(UsageError, match="no such study"):
        run(wrong_use, job)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all(job: WorkerRequest, kind: signal.Signals) -> None:
    sent: list[float] = []

    def send() -> int:
        if len(begun(job)) == 2 and not sent:
            sent.append(time.monotonic())
            os.kill(os.getpid(), kind)
        return 0

    before = signal.getsignal(kind)
    with pytest.raises(KeyboardInterrupt):
        run(runs_on, job, 2, send)
    assert time.monotonic() - sent[0] < 5
    assert signal.getsignal(kind) is before
    assert not any(alive(int(mark.name)) for mark in begun(job))


def test_a_second_signal_kills_those_that_do_not_end(job: WorkerRequest) -> None:
    def send() -> int:
        if len(begun(job)) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        return 0

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(deaf, job, 1, send)
    assert time.monotonic() - began < 20
    assert not any(alive(int(mark.name)) for mark in begun(job))


def test_workers_end_when_their_supervisor_is_killed(job: WorkerRequest, tmp_path: Path) -> None:
    script = (
        "from axsearch.running.request import WorkerPool, WorkerRequest\n"
        "from axsearch.running.engines.local import Local\n"
        "from tests.running.engines.test_local import runs_on\n"
        "if __name__ == '__main__':\n"
        f"    request = WorkerRequest({job.storage!r}, 'study')\n"
        "    Local(runs_on).run(WorkerPool(1, cpus=1), request, int)\n"
    )
    file = tmp_path.parent / "supervisor.py"
    file.write_text(script)
    process = Process(file, spawns=True)
    while not begun(job):
        time.sleep(0.05)
    process.kill()
    process.communicate()
    (mark,) = begun(job)
    deadline = time.monotonic() + 10
    while alive(int(mark.name)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_supervisor_outlasts_a_database_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    url, finished = make(tmp_path / "five.db"), WorkStorage.finished
    edit(tmp_path / "five.db", (SET_SETTINGS, json.dumps(SETTINGS)))
    error = OperationalError("", {}, Exception(), connection_invalidated=True)

    def away(*_: object) -> int:
        raise error

    with engines._watch(WorkerRequest(url, NAME)) as poll:
        monkeypatch.setattr(WorkStorage, "finished", outlast(away))
        began = time.monotonic()
        assert poll() == 0
        assert time.monotonic() - began < 1  # signals must be seen
        assert poll() == 0
        said = capfd.readouterr().err
        assert said.count("The workers wait for the database, for up to 120 s: ") == 1
        monkeypatch.setattr(WorkStorage, "finished", lambda *_: 3)
        assert poll() == 3
        monkeypatch.setattr(WorkStorage, "finished", away)
        assert poll() == 3
        assert "The workers wait for the database" in capfd.readouterr().err  # it is away again
        error = OperationalError("", {}, sqlite3.OperationalError("disk is full"))
        with pytest.raises(OperationalError):
            poll()
        monkeypatch.setattr(WorkStorage, "finished", finished)
        assert poll() == 0


def test_places_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "processors", lambda: 4)
    assert {"local", "ray"} <= set(engines.engine_names())
    check_pool(WorkerPool(4))
    check_pool(WorkerPool(2, cpus=2))
    for place, word in [
        (WorkerPool(5), "more than the 4 processors"),
        (WorkerPool(3, cpus=2), "3 workers of 2 threads"),
        (WorkerPool(0), "`workers` must be at least 1"),
        (WorkerPool(1, cpus=0), "`cpus` must be at least 1"),
        (WorkerPool(1, "kubernetes"), "local, ray"),
        (WorkerPool(2, address="auto"), '`address` and `gpus` are for `engine="ray"`'),
        (WorkerPool(2, gpus=1), '`address` and `gpus` are for `engine="ray"`'),
    ]:
        with pytest.raises(UsageError, match=word):
            check_pool(place)
    assert "secret" not in repr(WorkerRequest("postgresql://me:secret@db/x", "study"))
