"""Signs of life, whatever clocks do: summer time, clocks that are set, databases that were away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from axsearch.store import heartbeats
from axsearch.store.claims import Assignment
from axsearch.store.database import Database, open_database
from axsearch.store.heartbeats import Running, Watch
from axsearch.store.optuna_internals import id_of_study
from tests.faults import cheap
from tests.store.test_database import upgrade

GRACE = 120.0
LOCAL, ELSEWHERE = "here|boot|1|1", "there|boot|1|1"


def _nobody(_: str) -> bool:
    return False


class Looking:
    """A process that looks at one running trial, with a monotonic clock that tests move."""

    def __init__(self, worker: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 5.0
        self.beat: object = 0
        self.worker = worker
        self.watch = Watch(GRACE)
        monkeypatch.setattr(heartbeats, "time", self)

    def monotonic(self) -> float:
        return self.now

    def lost(self, silent: float, *, after: float = 0.0, dead: bool = False) -> bool:
        """Whether the trial is lost, some seconds after the last look."""
        self.now += after
        running = Running(1, 0, self.worker, self.beat, silent)
        found = self.watch.lost([running], lambda _: dead, lambda worker: worker == LOCAL)
        assert found in ([], [running])
        return bool(found)


def test_a_worker_that_lives_keeps_its_trial_when_the_clock_is_set_forward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = Looking(LOCAL, monkeypatch)
    assert not first.lost(3600.0)  # by a process that knows no more than this
    for worker in (LOCAL, ELSEWHERE, None):
        looking = Looking(worker, monkeypatch)
        assert not looking.lost(3.0)
        assert not looking.lost(3603.0, after=1.0)
        looking.beat = 1
        assert not looking.lost(3.0, after=30.0)
        assert not looking.lost(3603.0, after=30.0)  # and back, and forward again


@pytest.mark.parametrize("away", [100.0, 3600.0])
def test_and_when_the_database_was_away_or_the_machine_suspended(
    away: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could report, and the first look comes before the others' next reports."""
    looking = Looking(ELSEWHERE, monkeypatch)
    assert not looking.lost(25.0)
    assert not looking.lost(25.0 + away, after=away)
    looking.beat = 1
    assert not looking.lost(5.0, after=30.0)


@pytest.mark.parametrize("worker", [LOCAL, ELSEWHERE, None])
@pytest.mark.parametrize("step", [-3600.0, 0.0, 3600.0])
def test_a_worker_that_reports_no_more_is_lost_wherever_the_clock_is_set(
    step: float, worker: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = Looking(worker, monkeypatch)
    assert not looking.lost(0.0)
    found = [looking.lost(step + after, after=30.0) for after in range(30, 241, 30)]
    lost = found.index(True)
    assert all(found[lost:])
    assert 60 < 30 * (lost + 1) <= 1.5 * GRACE + 30


def test_a_process_that_looks_for_the_first_time_trusts_the_clock_about_workers_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for worker in (ELSEWHERE, None):
        assert Looking(worker, monkeypatch).lost(GRACE + 1)
        assert not Looking(worker, monkeypatch).lost(GRACE - 1)
    assert Looking(LOCAL, monkeypatch).lost(0.0, dead=True)


@pytest.fixture
def database(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("AXSEARCH_GRACE_PERIOD", str(GRACE))
    opened = open_database(url)
    yield opened
    opened.storage._running.clear()
    opened.close()


def a_running_trial(database: Database) -> optuna.Trial:
    study = cheap.a_study(database)
    database.storage.work_on(Assignment(id_of_study(study), 9, ELSEWHERE))
    return study.ask()


def test_a_trial_goes_on_when_the_clock_of_its_database_is_set_forward(
    database: Database, url: str
) -> None:
    trial = a_running_trial(database)
    other = open_database(url)
    number = id_of_study(trial.study)
    assert other.storage.retry_lost(number, _nobody) == ([], [])
    with database.engine.begin() as connection:  # as far as the clock's step would put it back
        hour_ago = (
            "datetime(heartbeat, '-1 hour')"
            if url.startswith("sqlite")
            else ("heartbeat - interval '1 hour'")
        )
        connection.execute(text(f"UPDATE trial_heartbeats SET heartbeat = {hour_ago}"))
    (seen,) = other.storage.others(number)
    assert 3590 < seen.silent < 3700
    assert other.storage.retry_lost(number, _nobody) == ([], [])
    database.storage.record_heartbeat(trial._trial_id)
    (seen,) = other.storage.others(number)
    assert seen.silent < 60
    assert other.storage.retry_lost(number, _nobody) == ([], [])
    other.close()
    trial.study.tell(trial, (0.5, 0.5))


def test_of_a_trial_without_heartbeats_its_start_counts(database: Database) -> None:
    study = cheap.a_study(database)
    study.ask()  # as another program does
    (found,) = database.storage.others(id_of_study(study)) or [None]
    assert found is None  # it runs in this object
    database.storage._running.clear()
    (found,) = database.storage.others(id_of_study(study))
    assert (found.worker, found.beat) == (None, None)
    assert -5 < found.silent < 60


BERLIN = "Europe/Berlin"
CHANGES = {
    "forward": ("2026-03-29 01:59:58+01", "2026-03-29 03:00:05+02", 7),
    "back": ("2026-10-25 02:45:00+02", "2026-10-25 02:30:00+01", 2700),
    "neither": ("2026-06-01 12:00:00+02", "2026-06-01 12:00:07+02", 7),
}


def set_zone(url: str, zone: str) -> None:
    """The zone of a PostgreSQL database, for connections from now on."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    name = make_url(url).database
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET timezone = '{zone}'"))
    engine.dispose()


def set_now(url: str, now: str) -> None:
    """What now() is in a PostgreSQL database, for connections from now on."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    name = make_url(url).database
    with engine.connect() as connection:
        connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql"
                f" AS $$ SELECT timestamptz '{now}' $$"
            )
        )
        connection.execute(text(f"ALTER DATABASE {name} SET search_path = public, pg_catalog"))
    engine.dispose()


@pytest.mark.parametrize("change", CHANGES)
def test_clocks_that_change_for_summer_time(postgresql_url: str, change: str) -> None:
    begun, now, seconds = CHANGES[change]
    set_zone(postgresql_url, BERLIN)
    database = open_database(postgresql_url)
    trial = a_running_trial(database)
    database.engine.dispose()
    set_now(postgresql_url, begun)
    database.storage.record_heartbeat(trial._trial_id)
    set_now(postgresql_url, now)
    other = open_database(postgresql_url)
    number = id_of_study(trial.study)
    (found,) = other.storage.others(number)
    assert found.silent == seconds
    lost, _ = other.storage.retry_lost(number, _nobody)
    states = [found.state for found in other.storage.get_all_trials(number)]
    assert (states == [TrialState.FAIL]) == (seconds > GRACE)
    assert lost == []  # it had no recipe yet that another could try
    other.close()
    database.storage._running.clear()
    database.close()


def running_of_version_0005(url: str, age: int) -> int:
    """A database as the version before left it, with a trial that reported some seconds ago."""
    theirs = optuna.storages.RDBStorage(url)
    study_id = theirs.create_new_study([optuna.study.StudyDirection.MINIMIZE], "old")
    trial = theirs.create_new_trial(study_id)
    theirs.remove_session()
    theirs.engine.dispose()
    engine = create_engine(url)
    upgrade(engine, "0005")
    ago = {"sqlite": f"datetime('now', '-{age} seconds')"}.get(
        engine.dialect.name, f"now() - interval '{age}' second"
    )
    with engine.begin() as connection:
        connection.execute(
            text(f"INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES ({trial}, {ago})")
        )
    engine.dispose()
    return study_id


def check_heartbeats_of_version_0005(url: str) -> None:
    """They are as old as they were, and its studies have identities."""
    study_id = running_of_version_0005(url, 50)
    database = open_database(url)
    (found,) = database.storage.others(study_id)
    assert 49 <= found.silent < 110
    assert len(database.storage.get_study_system_attrs(study_id)["axsearch:identity"]) == 32
    database.close()


def test_heartbeats_of_the_version_before(new_url: str) -> None:
    if new_url.startswith("postgresql"):
        set_zone(new_url, "Asia/Kolkata")
    check_heartbeats_of_version_0005(new_url)


def test_a_worker_of_the_version_before_that_still_runs(postgresql_url: str) -> None:
    """Its sessions may even be in another zone."""
    set_zone(postgresql_url, "America/New_York")
    database = open_database(postgresql_url)
    trial = a_running_trial(database)
    theirs: dict[str, Any] = {"t": trial._trial_id}
    with database.engine.begin() as connection:
        connection.execute(text("SET LOCAL timezone = 'Asia/Tokyo'"))
        connection.execute(
            text("UPDATE trial_heartbeats SET heartbeat = now() WHERE trial_id = :t"), theirs
        )
    other = open_database(postgresql_url)
    (found,) = other.storage.others(id_of_study(trial.study))
    assert -1 < found.silent < 60
    other.close()
    database.storage._running.clear()
    database.close()
