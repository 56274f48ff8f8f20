"""Databases that say nothing: a server that hangs, a lock that a frozen worker holds."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from axsearch.running.trial_loop import TrialLoop
from axsearch.space.recipe import Recipe
from axsearch.store import connections, heartbeats, outages
from axsearch.store.database import Database, open_database
from axsearch.store.limits import Limits
from axsearch.store.outages import DatabaseAwayError, at_once, database_error
from axsearch.system.interrupts import Interrupts
from axsearch.testing.processes import Process
from tests.faults.cheap import Cheap, a_loop, a_study
from tests.faults.definition import check_nothing_lost, complete, trials_of

# A connection to a server that is silent is left to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CHEAP = str(Path(__file__).with_name("cheap.py"))


class Proxy:
    """A Unix socket before PostgreSQL's, which passes bytes on until it is to be silent."""

    def __init__(self, url: str, folder: Path) -> None:
        self.server = re.search(r"host=([^&]+)", url)[1].replace("%2F", "/")  # type: ignore[index]
        self.url = url.replace(self.server, str(folder))
        assert self.url != url
        self.silent, self.ended = threading.Event(), threading.Event()
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(folder / ".s.PGSQL.5432"))
        self.listening.listen()
        self.others: dict[socket.socket, socket.socket] = {}
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.ended.is_set():
            if self.silent.is_set():
                time.sleep(0.02)
                continue
            for one in select.select([self.listening, *self.others], [], [], 0.02)[0]:
                if one is self.listening:
                    self._accept()
                elif one in self.others:
                    self._pass(one)

    def _accept(self) -> None:
        client, server = self.listening.accept()[0], socket.socket(socket.AF_UNIX)
        server.connect(f"{self.server}/.s.PGSQL.5432")
        self.others |= {client: server, server: client}

    def _pass(self, one: socket.socket) -> None:
        try:
            data = one.recv(2**16)
            self.others[one].sendall(data)
        except OSError:
            data = b""
        if not data:
            for end in (one, self.others[one]):
                del self.others[end]
                end.close()

    def close(self) -> None:
        self.ended.set()
        self.thread.join()
        for one in (self.listening, *self.others):
            one.close()


@pytest.fixture
def proxy(postgresql_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("p")
    made = Proxy(postgresql_url, folder)
    yield made
    made.close()


def limits(monkeypatch: pytest.MonkeyPatch, longest: float, **given: float) -> None:
    """Shorter limits of time, in this process."""
    monkeypatch.setattr(connections, "USUAL", Limits(**{"connect": 2, "more": 0.2, **given}))
    monkeypatch.setattr(outages, "LONGEST", longest)
    monkeypatch.setattr(outages, "SHORTEST", 0.3)
    monkeypatch.setattr(outages, "SAY_AFTER", 0.2)


def seconds_of(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def a_worker(database: Database, act: Callable[[], None], wanted: int = 8) -> TrialLoop:
    """A loop whose third trial begins with a fault."""
    count = 0

    def within() -> None:
        nonlocal count
        count += 1
        if count == 3:
            act()

    return a_loop(database, Cheap(0.0, within, lambda: None), wanted)


def test_a_server_that_hangs_is_waited_for_as_long_as_is_promised(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    limits(monkeypatch, 1.5, statement=60)
    database = open_database(proxy.url)
    loop = a_worker(database, proxy.silent.set)

    def fails() -> None:
        with pytest.raises(DatabaseAwayError, match=r"server has not answered|connection time"):
            loop.run()
        database.close()

    assert 1.4 < seconds_of(fails) < 8
    said = capfd.readouterr().err
    assert "Waiting for the database, for up to 2 s: it does not answer." in said
    assert "answers again" not in said


def test_a_server_that_hangs_for_a_while_is_outlasted(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    limits(monkeypatch, 30, statement=0.6)
    database = open_database(proxy.url)

    def hang() -> None:
        proxy.silent.set()
        threading.Timer(1.5, proxy.silent.clear).start()

    loop = a_worker(database, hang)
    assert seconds_of(loop.run) > 1.4
    database.close()
    check_nothing_lost(proxy.url, 8)
    said = capfd.readouterr().err
    assert said.count("it does not answer") == 1
    assert said.endswith("The database answers again.\n")


def test_a_statement_that_takes_long_is_waited_for(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only silence beyond what the server allows itself ends a connection, and not its answers."""
    limits(monkeypatch, 30, statement=1.2)
    database = open_database(proxy.url)
    with database.engine.connect() as connection:
        connection.execute(text("SELECT pg_sleep(0.8)"))
        rows = connection.execute(text("SELECT pg_sleep(0.001) FROM generate_series(1, 300)"))
        assert len(rows.all()) == 300
    database.close()


def test_the_server_ends_statements_and_locks_that_take_too_long(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, 1.0, statement=0.3, lock=0.2)
    monkeypatch.setattr(outages, "SHORTEST", 5.0)  # the server's limit ends before the client's
    database = open_database(postgresql_url)
    work = outages.outlast(lambda: sleep_in(database))
    with pytest.raises(OperationalError, match="statement timeout") as caught:
        work()
    assert "statement timeout" in _said(caught.value)
    a_study(database)
    with database.engine.connect() as holder:
        holder.execute(text("SELECT * FROM studies FOR UPDATE"))
        with pytest.raises(StorageInternalError) as caught:
            database.storage.enqueue(1, Recipe.of({}), {})
        assert re.search("has held a lock for too long.*lock timeout", _said(caught.value))
    database.close()


def sleep_in(database: Database) -> None:
    with database.engine.connect() as connection:
        connection.execute(text("SELECT pg_sleep(5)"))


def _said(error: BaseException) -> str:
    """What a user sees; it is worth another run."""
    found = database_error(error)
    assert isinstance(found, DatabaseAwayError)
    return str(found)


def test_a_worker_that_froze_within_a_claim_holds_no_one_up(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session is ended by the server; when it wakes up, it goes on as after an outage."""
    limits(monkeypatch, 60, idle=1, lock=0.5)
    databases = [open_database(postgresql_url) for _ in range(2)]
    first, second = (a_loop(d, Cheap(0.0, _nothing, _nothing), 12) for d in databases)
    frozen, wake, begin = threading.Event(), threading.Event(), heartbeats.begin
    calls = 0

    def freezes(session: Session, *given: Any) -> None:
        nonlocal calls
        if threading.current_thread() is worker:
            calls += 1
            if calls == 3:
                frozen.set()
                wake.wait(30)
        begin(session, *given)

    monkeypatch.setattr(heartbeats, "begin", freezes)
    worker = threading.Thread(target=first.run)
    worker.start()
    assert frozen.wait(30)
    took = seconds_of(second.run)
    wake.set()
    worker.join(30)
    assert not worker.is_alive()
    assert 0.5 < took < 20
    for database in databases:
        database.close()
    assert len(complete(trials_of(postgresql_url))) == 12


def _nothing() -> None:
    return


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_ends_a_worker_that_waits_for_a_silent_server(proxy: Proxy, signals: int) -> None:
    with Process(CHEAP, proxy.url, "--wanted", "1000", "--seconds", "0.1") as worker:
        while worker.stdout.readline().strip() != "finished 3":
            assert worker.poll() is None
        proxy.silent.set()
        time.sleep(0.5)
        began = time.monotonic()
        for _ in range(signals):
            worker.send_signal(signal.SIGINT)
            time.sleep(0.1)
        _, said = worker.communicate(timeout=60)
        assert worker.returncode == 130, said
        assert time.monotonic() - began < 15
        assert "Traceback" not in said


def test_a_signal_ends_the_wait_between_two_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[None] = []

    @outages.outlast
    def fails() -> None:
        attempts.append(None)
        os.kill(os.getpid(), signal.SIGINT)
        locked = sqlite3.OperationalError("database is locked")
        raise OperationalError("statement", {}, locked)

    with Interrupts():
        with pytest.raises(KeyboardInterrupt):
            fails()
        assert len(attempts) == 1
        monkeypatch.setattr(os, "kill", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            fails()  # nor is it tried again once one has arrived
    assert len(attempts) == 2


def test_what_is_not_repeated_waits_for_little(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, 60, statement=60)
    database = open_database(proxy.url)
    a_study(database)
    proxy.silent.set()

    def count() -> None:
        with at_once(), pytest.raises(StorageInternalError) as caught:
            database.storage.finished(1)
        assert re.search("has not answered for|connection timeout", _said(caught.value))

    assert seconds_of(count) < 5
    database.close()


# What is set, and what the user sets


def settings(url: str) -> list[str]:
    database = open_database(url)
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    with database.engine.connect() as connection:
        found = [str(connection.scalar(text(f"SHOW {name}"))) for name in names]
        connection.rollback()
        assert found == [str(connection.scalar(text(f"SHOW {name}"))) for name in names]
    database.close()
    return found


def test_limits_of_postgresql(postgresql_url: str) -> None:
    assert settings(postgresql_url) == ["45s", "10s", "1min"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("-c statement_timeout=5min -c lock_timeout=0", ["5min", "0", "1min"]),
        ("-c idle_in_transaction_session_timeout=7000", ["45s", "10s", "7s"]),
    ],
)
def test_what_the_user_sets_in_the_url_stays(
    postgresql_url: str, options: str, expected: list[str]
) -> None:
    quoted = options.replace(" ", "%20").replace("=", "%3D")
    assert settings(f"{postgresql_url}&options={quoted}") == expected


def test_what_was_set_for_the_database_stays(postgresql_url: str) -> None:
    name = postgresql_url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(postgresql_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET statement_timeout = 0")  # type: ignore[call-overload]
        connection.execute(f"ALTER DATABASE {name} SET lock_timeout = '3s'")  # type: ignore[call-overload]
    assert settings(postgresql_url) == ["0", "3s", "1min"]


def test_silence_is_measured_by_what_the_user_allows_a_statement(postgresql_url: str) -> None:
    for options, expected in [("", 50), ("-c%20statement_timeout%3D5min", 305)]:
        database = open_database(f"{postgresql_url}&options={options}")
        with database.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            assert driver.silence == expected
            parameters = driver.info.get_parameters()
            assert (parameters["connect_timeout"], parameters["keepalives_idle"]) == ("10", "30")
            assert parameters["tcp_user_timeout"] == "50000"
        database.close()
    database = open_database(f"{postgresql_url}&connect_timeout=7&keepalives_idle=9")
    with database.engine.connect() as connection:
        driver = connection.connection.driver_connection
        parameters = driver.info.get_parameters()
        assert (parameters["connect_timeout"], parameters["keepalives_idle"]) == ("7", "9")
    database.close()


def test_sqlite_waits_for_a_lock_as_long_as_the_user_says(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    open_database(url, create=True).close()
    for query, expected in [("", 10_000), ("?timeout=2.5", 2500)]:
        database = open_database(url + query)
        with database.engine.connect() as connection:
            assert connection.scalar(text("PRAGMA busy_timeout")) == expected
        database.close()


def test_a_lock_of_sqlite_that_nobody_releases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    limits(monkeypatch, 1.0, lock=0.3)
    database = open_database(f"sqlite:///{tmp_path / 'studies.db'}", create=True)
    loop = a_worker(database, lambda: frozen.execute("BEGIN IMMEDIATE"))
    with closing(sqlite3.connect(tmp_path / "studies.db", isolation_level=None)) as frozen:

        def fails() -> None:
            with pytest.raises(DatabaseAwayError, match="another process, perhaps one that was st"):
                loop.run()

        assert 0.9 < seconds_of(fails) < 8
    database.close()
    assert "Waiting for the database, for up to 1 s: database is locked." in capfd.readouterr().err
