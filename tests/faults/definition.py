"""What 'nothing lost' means, checked against a database."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text

from axsearch.store.artifacts import attached
from axsearch.store.attributes import FAILED_ATTR, GIVEN_UP_ATTR, INTERRUPTED_ATTR, RETRY_ATTR
from axsearch.store.claims import RECIPE_RETRIES
from axsearch.store.database import Database, open_database
from axsearch.store.queries import load_recipes
from tests.faults.cheap import NAME, values_of


def trials_of(url: str) -> list[FrozenTrial]:
    """All trials, as a process that opens the database now finds them."""
    database = open_database(url)
    try:
        return trials_in(database)
    finally:
        database.close()


def trials_in(database: Database) -> list[FrozenTrial]:
    """All trials of an open database; none where there is no study yet."""
    if NAME not in optuna.get_all_study_names(database.storage):
        return []
    return optuna.load_study(study_name=NAME, storage=database.storage).get_trials()


def complete(trials: list[FrozenTrial]) -> dict[int, tuple[Any, ...]]:
    """What must stay as it is of trials that are complete."""
    return {
        t.number: (t.values, t.params, t.user_attrs)
        for t in trials
        if t.state == TrialState.COMPLETE
    }


def check_nothing_lost(
    url: str, wanted: int, before: dict[int, tuple[Any, ...]] | None = None
) -> list[FrozenTrial]:
    """A study that came to its end has all that it ever had, and what was wanted, once.

    Args:
        url: of the database.
        wanted: how many distinct recipes were asked for.
        before: what :func:`complete` gave at an earlier time.
    """
    database = open_database(url)
    try:
        trials = trials_in(database)
        engine, study_id = database.engine, database.storage.get_study_id_from_name(NAME)
        now = complete(trials)
        for number, kept in (before or {}).items():
            assert now[number] == kept, "a complete trial has changed"
        states = [t.state for t in trials]
        assert TrialState.RUNNING not in states
        assert [t.number for t in trials] == list(range(len(trials)))
        hashes = {t.user_attrs["recipe"] for t in trials if t.state == TrialState.COMPLETE}
        recipes = load_recipes(engine, hashes)
        for trial in trials:
            if trial.state == TrialState.COMPLETE:  # the same as it would be evaluated now
                assert tuple(trial.values) == values_of(recipes[trial.user_attrs["recipe"]])
        assert len(hashes) == wanted, "the budget counts each distinct recipe once"
        with engine.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT recipe, trial_id, attempt, finished, accuracy FROM ax_trials"
                    " WHERE study_id = :study"
                ),
                {"study": study_id},
            ).all()
        by_id = {trial._trial_id: trial for trial in trials}
        assert len({row.trial_id for row in rows}) == len(rows), "a trial has one recipe"
        assert {row.recipe for row in rows if row.finished} == hashes
        for row in rows:
            assert row.attempt <= 1 + RECIPE_RETRIES
            trial = by_id[row.trial_id]
            if row.finished:
                assert trial.state == TrialState.COMPLETE
                assert trial.user_attrs["recipe"] == row.recipe
                assert trial.values[0] == row.accuracy
            else:
                ended = {GIVEN_UP_ATTR, FAILED_ATTR} & set(trial.user_attrs)
                assert ended or trial.state == TrialState.WAITING
        # An interrupted trial that had a recipe is tried again.
        again = {trial.user_attrs.get(RETRY_ATTR) for trial in trials}
        claimed = {row.recipe for row in rows}
        for trial in trials:
            if INTERRUPTED_ATTR in trial.user_attrs and trial.user_attrs.get("recipe") in claimed:
                recipe = trial.user_attrs["recipe"]
                assert trial.number in again or recipe in hashes
        files = list(attached(engine, study_id))
        assert all(file.whole for file in files)
        assert {file.trial for file in files} == set(now)
        return trials
    finally:
        database.close()
