"""Many processes at once: on one study, making one study, making one database."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import text

from axsearch.store.attributes import RETRY_ATTR
from axsearch.store.database import open_database
from axsearch.testing.processes import Process
from tests.faults.cheap import NAME
from tests.faults.definition import check_nothing_lost

CHEAP = str(Path(__file__).with_name("cheap.py"))
MAKE = """
import sys, optuna
from axsearch.store.database import open_database
from axsearch.store.optuna_internals import id_of_study
database = open_database(sys.argv[1], create=True)
study = optuna.create_study(
    study_name="one", storage=database.storage, directions=["minimize"] * 2, load_if_exists=True
)
print(id_of_study(study))
database.close()
"""


def start(script: list[str], count: int) -> list[Process]:
    return [Process(*script) for _ in range(count)]


@pytest.mark.parametrize("processes", [8])
def test_processes_on_one_study_finish_what_is_wanted_once(url: str, processes: int) -> None:
    open_database(url, create=True).close()
    running = start([CHEAP, url, "--wanted", "160", "--seconds", "0.01"], processes)
    told = [process.communicate(timeout=120) for process in running]
    assert [p.returncode for p in running] == [0] * processes, told
    trials = check_nothing_lost(url, 160)
    assert len({str(t.params) for t in trials if t.state == TrialState.COMPLETE}) == 160
    assert not any(RETRY_ATTR in t.user_attrs for t in trials)
    did = [out.count("finished") for out, _ in told]
    assert sum(did) == 160
    assert sum(count > 0 for count in did) >= processes - 2  # they shared the work


def test_processes_that_start_at_once_make_one_database_and_one_study(new_url: str) -> None:
    running = start(["-c", MAKE, new_url], 6)
    told = [process.communicate(timeout=120) for process in running]
    assert [p.returncode for p in running] == [0] * 6, told
    assert len({out for out, _ in told}) == 1
    database = open_database(new_url)
    assert optuna.get_all_study_names(database.storage) == ["one"]
    with database.engine.connect() as connection:
        versions = connection.execute(text("SELECT count(*) FROM ax_alembic_version")).scalar()
    database.close()
    assert versions == 1


def test_a_waiting_trial_goes_to_one_of_many(url: str) -> None:
    """On SQLite, which knows no row locks, Optuna lets two workers start it."""
    database = open_database(url, create=True)
    study = optuna.create_study(
        study_name=NAME, storage=database.storage, directions=["maximize", "minimize"]
    )
    for heads in range(12):
        study.enqueue_trial({f"layer{layer:02d}.heads": heads for layer in range(6)})
    database.close()
    running = start([CHEAP, url, "--wanted", "12", "--seconds", "0"], 4)
    told = [process.communicate(timeout=120) for process in running]
    assert [p.returncode for p in running] == [0] * 4, told
    trials = check_nothing_lost(url, 12)
    assert [t.params["layer00.heads"] for t in trials] == list(range(12))
