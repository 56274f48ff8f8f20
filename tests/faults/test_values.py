"""Evaluations that go wrong: what is not finite never lands on a front."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from threading import Thread
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import text

from axsearch.errors import AxsearchError, UsageError
from axsearch.running.trial_loop import MOST_HELD, End
from axsearch.space.recipe import Recipe
from axsearch.store.attributes import DROPPED_ATTR
from axsearch.store.database import Database, open_database
from tests.faults.cheap import Cheap, a_loop, recipe_of
from tests.faults.definition import check_nothing_lost, trials_in

NAN, INF = math.nan, math.inf


class Wrong(Cheap):
    """Gives something else in some trials, or raises it."""

    def __init__(self, instead: Sequence[float] | BaseException, trials: Sequence[int]) -> None:
        super().__init__(0.0, lambda: None, lambda: None)
        self.instead = instead
        self.trials = trials

    def evaluate(self, trial: optuna.Trial, recipe: Recipe) -> End:
        end = super().evaluate(trial, recipe)
        if trial.number not in self.trials:
            return end
        if isinstance(self.instead, BaseException):
            raise self.instead
        return End(self.instead, end.columns, end.files)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url, create=True)
    yield opened
    opened.close()


def url_of(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ((NAN, 0.5), "not finite: nan"),
        ((INF, 0.5), "not finite: inf"),
        ((0.5, -INF), "not finite: 0.5, -inf"),
        ((0.5,), "1 values for 2 objectives"),
        ((0.5, 0.5, 0.5), "3 values for 2 objectives"),
        (ValueError("no such layer"), "ValueError: no such layer"),
        (KeyError("weight"), "KeyError: 'weight'"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory\nmore"), "can't allocate memory"),
        (AxsearchError("The logits are not finite."), "The logits are not finite"),
    ],
    ids=str,
)
def test_the_trial_fails_the_study_goes_on_and_the_front_stays_clean(
    database: Database, instead: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a_loop(database, Wrong(instead, [1, 3]), 6).run()
    assert said in capsys.readouterr().err
    trials = check_nothing_lost(url_of(database), 6)
    failed = [t for t in trials if t.state == TrialState.FAIL]
    assert [t.number for t in failed] == [1, 3]
    for trial in failed:
        assert said in trial.user_attrs["failed"]
        assert trial.values is None
    with database.engine.connect() as connection:
        front = set(connection.execute(text("SELECT trial FROM ax_front")).scalars())
    study = optuna.load_study(study_name="cheap", storage=database.storage)
    assert front == {t.number for t in study.best_trials}
    assert front


def test_a_task_that_always_fails_ends_the_run_and_says_why(database: Database) -> None:
    with pytest.raises(AxsearchError, match=r"5 of the last 5 trials failed.*no such layer"):
        a_loop(database, Wrong(ValueError("no such layer"), range(1000)), 6).run()
    assert len(trials_in(database)) == 5


def test_one_that_fails_more_often_than_not_as_well(database: Database) -> None:
    odd = [n for n in range(1000) if n % 5]
    with pytest.raises(AxsearchError, match=r"of the last .* trials failed"):
        a_loop(database, Wrong(ValueError("no such layer"), odd), 100).run()
    assert len(trials_in(database)) < 10
    a_loop(database, Wrong(ValueError("no such layer"), range(0, 1000, 3)), 20).run()  # a third


def test_wrong_use_ends_the_run_at_once(database: Database) -> None:
    with pytest.raises(UsageError, match="another model"):
        a_loop(database, Wrong(UsageError("The recipe is another model's."), [2]), 6).run()
    states = [t.state for t in trials_in(database)]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.FAIL]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_whatever_ends_the_process_gives_the_trial_back(
    database: Database, kind: type[BaseException]
) -> None:
    with pytest.raises(kind):
        a_loop(database, Wrong(kind(), [2]), 6).run()
    assert [t.state for t in trials_in(database)][2:] == [TrialState.FAIL, TrialState.WAITING]
    a_loop(database, Wrong((), []), 6).run()
    check_nothing_lost(url_of(database), 6)


def test_a_study_deleted_while_it_runs_is_said(database: Database) -> None:
    class Deletes(Cheap):
        def evaluate(self, trial: optuna.Trial, recipe: Recipe) -> End:
            end = super().evaluate(trial, recipe)
            if trial.number == 2:
                other = open_database(url_of(database))
                optuna.delete_study(study_name="cheap", storage=other.storage)
                other.close()
            return end

    objective = Deletes(0.0, lambda: None, lambda: None)
    with pytest.raises(AxsearchError, match="deleted while it ran"):
        a_loop(database, objective, 6).run()
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM ax_trials")).scalar() == 0


def test_a_study_deleted_between_trials_leaves_nothing_in_the_way(database: Database) -> None:
    """SQLite gives the ids of a deleted study and its trials again."""
    loop = a_loop(database, Wrong((), []), 6)
    storage, study_id = database.storage, loop.assignment.study_id
    storage.work_on(loop.assignment)
    trial_id = storage.create_new_trial(study_id)
    other = open_database(url_of(database))
    optuna.delete_study(study_name="cheap", storage=other.storage)
    other.close()
    storage.record_heartbeat(trial_id)  # its thread does not know yet
    with pytest.raises(KeyError):
        storage.create_new_trial(study_id)
    with database.engine.connect() as connection:
        for table in ("trials", "trial_heartbeats", "ax_trials"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0
    again = open_database(url_of(database))
    a_loop(again, Wrong((), []), 6).run()
    again.close()
    assert len(check_nothing_lost(url_of(database), 6)) == 6


def test_a_recipe_that_another_worker_evaluates_is_waited_for(database: Database) -> None:
    class Same(Cheap):
        def recipe(self, trial: optuna.Trial) -> Recipe:
            super().recipe(trial)
            return recipe_of(dict.fromkeys((f"layer{n:02d}.heads" for n in range(6)), busy))

    busy = 1
    first = open_database(url_of(database))
    slow = a_loop(first, Same(2.5, lambda: None, lambda: None), 1)
    thread = Thread(target=slow.run)
    thread.start()
    while not database.storage.others(slow.assignment.study_id):
        time.sleep(0.05)
    time.sleep(0.3)
    fast = a_loop(database, Same(0.0, lambda: None, lambda: None), 3)
    fast.storage.work_on(fast.assignment)

    def end_soon() -> bool:
        nonlocal busy
        busy += not thread.is_alive()  # then it proposes something new
        return False

    fast.ready = end_soon
    fast.run()
    thread.join()
    first.close()
    trials = trials_in(database)
    dropped = [t for t in trials if DROPPED_ATTR in t.user_attrs]
    assert 0 < len(dropped) <= MOST_HELD + 1
    assert database.storage.finished(fast.assignment.study_id) == 3


def test_a_small_space_ends_when_all_of_it_is_tried(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.faults.cheap.HEADS", 1)
    monkeypatch.setattr("axsearch.running.trial_loop.NOTHING_NEW", 5)
    a_loop(database, Wrong((), []), 6).run()
    assert "nothing new 5 times: the study has 1 models" in capsys.readouterr().err
    check = trials_in(database)
    assert [t.state for t in check] == [TrialState.COMPLETE] * 6  # one new, five known
    assert len({t.values[1] for t in check}) == 1
