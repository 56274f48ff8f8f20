"""Recovered models as trials: added once, of no budget, and unseen by samplers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from axsearch.samplers.base import PerTrial
from axsearch.store import claims
from axsearch.store.artifacts import attached
from axsearch.store.attributes import RECIPE_ATTR, RECOVERED_ATTR
from axsearch.store.claims import Assignment, BudgetFullError
from axsearch.store.database import Database, open_database
from axsearch.store.identity import GoneError
from axsearch.store.optuna_internals import id_of_study, searched_study
from axsearch.store.queries import load_recipes
from axsearch.store.studies import trial_history
from axsearch.testing.processes import Process, run
from tests.common_fixtures import copied
from tests.faults.cheap import HEADS, LAYERS, NAME, Cheap, a_loop, a_study, recipe_of
from tests.faults.test_replaced_studies import delete_study

COLUMNS = {
    "accuracy": 0.99, "size": 0.5, "size_ratio": 0.5, "feasible": True, "seconds": 60.0,
}  # fmt: skip
FILES = {"recipe.json": b"{}", "layers.csv": b"layer,heads"}
ALL = {f"layer{layer:02d}.heads": HEADS - 1 for layer in range(LAYERS)}
"""The parameters of what is recovered here: few heads are left."""


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """With a study of four trials."""
    opened = open_database(url)
    search(opened, 4)
    yield opened
    opened.close()


def search(database: Database, wanted: int, within: Callable[[], None] = lambda: None) -> None:
    a_loop(database, Cheap(0.0, within, lambda: None), wanted).run()


def template(of: int = 1, **attrs: Any) -> FrozenTrial:
    """As recovery adds it."""
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE,
        values=[COLUMNS["accuracy"], COLUMNS["size"]],
        params=ALL,
        distributions={name: optuna.distributions.IntDistribution(0, HEADS - 1) for name in ALL},
        user_attrs={RECIPE_ATTR: recipe_of(ALL).hash, RECOVERED_ATTR: of, **attrs},
    )


def add(database: Database, of: int = 1) -> tuple[int, bool]:
    study_id = database.storage.get_study_id_from_name(NAME)
    return database.storage.add_recovered(study_id, recipe_of(ALL), template(of), COLUMNS, FILES)


def trials(database: Database) -> list[FrozenTrial]:
    return optuna.load_study(study_name=NAME, storage=database.storage).get_trials()


def row(database: Database) -> tuple[object, ...]:
    with database.engine.connect() as connection:
        return tuple(
            connection.execute(
                text(
                    "SELECT r.trial_id, r.finished, r.recovered_from, r.accuracy, r.seconds,"
                    " r.attempt FROM ax_trials r WHERE r.recipe = :recipe"
                ),
                {"recipe": recipe_of(ALL).hash},
            ).one()
        )


def test_it_is_a_complete_trial_with_all_that_a_trial_has(database: Database) -> None:
    assert add(database) == (4, True)
    before, added = trials(database)[:4], trials(database)[4]
    assert all(RECOVERED_ATTR not in trial.user_attrs for trial in before)
    wanted = template()
    for field in ("state", "values", "params", "distributions", "user_attrs"):
        assert getattr(added, field) == getattr(wanted, field)
    assert row(database) == (added._trial_id, True, 1, 0.99, 60.0, 1)
    known = load_recipes(database.engine, [recipe_of(ALL).hash])
    assert known[recipe_of(ALL).hash] == recipe_of(ALL)
    study_id = database.storage.get_study_id_from_name(NAME)
    files = {f.name: f.data for f in attached(database.engine, study_id) if f.trial == 4}
    assert files == FILES
    assert [one.number for one in trial_history(database.engine, study_id)] == [*range(5)]
    with database.engine.connect() as connection:
        front = connection.execute(text("SELECT trial, recovered_from FROM ax_front")).all()
    assert (4, 1) in [tuple(one) for one in front]
    assert all(origin is None for number, origin in front if number != 4)


def test_it_is_added_once(database: Database) -> None:
    assert add(database) == (4, True)
    before = trials(database)
    assert add(database) == (4, False)
    assert trials(database) == before
    study_id = database.storage.get_study_id_from_name(NAME)
    searched = before[2]
    recipe = load_recipes(database.engine, [searched.user_attrs[RECIPE_ATTR]])
    (known,) = recipe.values()
    # A recipe that the search finished is not added either.
    assert database.storage.add_recovered(study_id, known, template(), COLUMNS, {}) == (2, False)


def test_what_is_no_recovered_trial_is_refused(database: Database) -> None:
    for wrong in (
        template(**{RECOVERED_ATTR: None}),
        optuna.trial.create_trial(state=TrialState.FAIL, user_attrs={RECOVERED_ATTR: 1}),
    ):
        with pytest.raises(ValueError, match="recovered model"):
            database.storage.add_recovered(1, recipe_of(ALL), wrong, COLUMNS, {})
    assert len(trials(database)) == 4


ADD = """
import sys
from axsearch.store.database import open_database
from tests.store.test_recovered_trials import add
database = open_database(sys.argv[1])
print(*add(database))
database.close()
"""


def test_processes_add_the_same_one_at_once(url: str, database: Database) -> None:
    running = [Process("-c", ADD, url) for _ in range(6)]
    told = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0] * 6, told
    assert sorted(out for out, _ in told) == ["4 False\n"] * 5 + ["4 True\n"]
    assert len(trials(database)) == 5
    assert row(database)[1:3] == (True, 1)


def test_a_recipe_that_is_written_meanwhile(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For another study, which does not wait for this one's lock."""
    original = claims.add_claim
    calls = []

    def late(session: Session, study_id: int, recipe: str, text_: str, trial_id: int) -> None:
        calls.append(trial_id)
        if len(calls) == 1:
            session.execute(text("INSERT INTO ax_recipes (hash, json) VALUES ('x', '{}')"))
            session.execute(text("INSERT INTO ax_recipes (hash, json) VALUES ('x', '{}')"))
        original(session, study_id, recipe, text_, trial_id)

    monkeypatch.setattr(claims, "add_claim", late)
    assert add(database) == (4, True)
    assert len(calls) == 2
    assert len(trials(database)) == 5


def test_a_process_that_is_killed_within_it_leaves_nothing(url: str, database: Database) -> None:
    die = (
        "import os, signal\nfrom axsearch.store import recovered\n"
        "recovered.attach = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert run("-c", die + ADD, url).returncode == -signal.SIGKILL
    assert len(trials(database)) == 4
    assert add(database) == (4, True)


@pytest.mark.parametrize("written", [True, False])
def test_an_outage(database: Database, monkeypatch: pytest.MonkeyPatch, written: bool) -> None:
    """The connection breaks with the commit, of which nobody knows then whether it was written."""
    transaction, calls = database.storage.transaction, []

    def cut() -> None:
        lost = OperationalError("COMMIT", {}, Exception("gone"), connection_invalidated=True)
        raise StorageInternalError from lost

    @contextmanager
    def once() -> Iterator[Session]:
        calls.append(1)
        with transaction() as session:
            yield session
            if len(calls) == 1 and not written:
                cut()
        if len(calls) == 1:
            cut()

    monkeypatch.setattr(database.storage, "transaction", once)
    assert add(database) == (4, True)
    monkeypatch.undo()
    assert len(calls) == 2
    assert len(trials(database)) == 5


def test_a_study_that_is_not_there_any_more(url: str, database: Database) -> None:
    study_id = database.storage.get_study_id_from_name(NAME)
    database.storage.work_on(Assignment(study_id, 9, "me"))
    delete_study(url)
    another = open_database(url)
    a_study(another)
    replaced = another.storage.get_study_id_from_name(NAME)
    given = recipe_of(ALL), template(), COLUMNS, FILES
    with pytest.raises(GoneError):
        database.storage.add_recovered(study_id, *given)
    assert not another.storage.get_all_trials(replaced)
    with pytest.raises(GoneError):
        database.storage.add_recovered(replaced + 7, *given)
    another.close()


def test_one_whose_trial_was_deleted_is_added_again(database: Database) -> None:
    add(database)
    deleted = trials(database)[4]._trial_id
    with database.engine.begin() as connection:
        for table in (
            "trial_params", "trial_values", "trial_user_attributes", "trial_system_attributes",
            "trials",
        ):  # fmt: skip
            connection.execute(
                text(f"DELETE FROM {table} WHERE trial_id = :trial"), {"trial": deleted}
            )
    assert add(database, of=2) == (4, True)
    assert row(database)[1:3] == (True, 2)
    assert len(trials(database)) == 5


# Budgets


def test_recovered_models_are_part_of_no_budget(database: Database) -> None:
    add(database)
    study_id = database.storage.get_study_id_from_name(NAME)
    assert database.storage.finished(study_id) == 4
    search(database, 6)
    assert database.storage.finished(study_id) == 6
    complete = [trial for trial in trials(database) if trial.state == TrialState.COMPLETE]
    assert len({trial.user_attrs[RECIPE_ATTR] for trial in complete}) == 7
    search(database, 6)  # all is there: it ends at once
    assert len(trials(database)) == 7


def test_one_that_is_added_while_a_search_runs(database: Database) -> None:
    added: list[tuple[int, bool]] = []
    search(database, 8, within=lambda: added.append(add(database)))
    study_id = database.storage.get_study_id_from_name(NAME)
    assert database.storage.finished(study_id) == 8
    assert added == [(5, True), *[(5, False)] * 3]
    assert [trial.number for trial in trials(database)] == [*range(9)]


def test_the_budget_is_exact_beside_recovered_models(database: Database) -> None:
    add(database)
    study = a_study(database)
    database.storage.work_on(Assignment(id_of_study(study), 5, "me"))
    study.ask()
    with pytest.raises(BudgetFullError):
        study.ask()
    study_id = id_of_study(study)
    database.storage.enqueue(study_id, recipe_of({**ALL, "layer00.heads": 0}), ALL)
    with pytest.raises(BudgetFullError):
        study.ask()


# Samplers


def test_a_searched_study_hides_them_however_it_is_read(database: Database) -> None:
    add(database)
    searched = searched_study(NAME, database.storage)
    whole = optuna.load_study(study_name=NAME, storage=database.storage)
    assert id_of_study(searched) == id_of_study(whole)
    assert searched.directions == whole.directions
    for deepcopy in (True, False):
        for states in (None, (TrialState.COMPLETE,)):
            found = searched.get_trials(deepcopy=deepcopy, states=states)
            assert [trial.number for trial in found] == [0, 1, 2, 3]
            for use_cache in (True, False):
                assert searched._get_trials(deepcopy, states, use_cache) == found
    assert len(whole.get_trials()) == 5
    assert 4 in [trial.number for trial in whole.best_trials]
    assert 4 not in [trial.number for trial in searched.best_trials]
    found = searched.get_trials()
    found[0].user_attrs["changed"] = True
    assert "changed" not in searched.get_trials()[0].user_attrs
    with pytest.raises(KeyError):
        searched_study("none", database.storage)


SAMPLERS: dict[str, Callable[[], BaseSampler]] = {
    "tpe": lambda: TPESampler(seed=1, n_startup_trials=2, n_ei_candidates=200),
    "one that counts trials": lambda: PerTrial(lambda seed: RandomSampler(seed=seed), 7),
}


def _drawn(study: optuna.Study, sampler: BaseSampler) -> dict[str, int]:
    study.sampler = sampler
    trial = study.ask()
    drawn = {name: trial.suggest_int(name, 0, HEADS - 1) for name in ALL}
    study.tell(trial, state=TrialState.FAIL)
    return drawn


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_draws_as_without_them(sqlite_template: str, tmp_path: Path, name: str) -> None:
    """What it draws with one in sight shows that the question is a fair one."""
    drawn = {}
    for case in ("without", "hidden", "in sight"):
        folder = tmp_path / case
        folder.mkdir()
        database = open_database(copied(sqlite_template, folder))
        random = RandomSampler(seed=3)
        study = a_study(database)
        loop = a_loop(database, Cheap(0.0, lambda: None, lambda: None), 12)
        loop.study.sampler = random
        loop.run()
        database.close()
        database = open_database(database.url)  # as a command that recovers, which is no worker
        if case != "without":
            for number in range(3):  # some, as after a recovery of the front
                recipe = recipe_of({**ALL, "layer00.heads": number})
                given = template(number), COLUMNS, FILES
                database.storage.add_recovered(id_of_study(study), recipe, *given)
        if case == "in sight":
            reading = optuna.load_study(study_name=NAME, storage=database.storage)
        else:
            reading = searched_study(NAME, database.storage)
        drawn[case] = [_drawn(reading, SAMPLERS[name]()) for _ in range(3)]
        database.close()
    assert drawn["hidden"] == drawn["without"]
    assert drawn["in sight"] != drawn["without"]
