"""A study that is deleted and made again, or restored from a copy, while a worker evaluates.

What the worker then writes has the numbers of a study and a trial that are others now.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from sqlalchemy import text

from axsearch.errors import AxsearchError
from axsearch.running.trial_loop import End, TrialLoop
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import Scenario
from axsearch.store import studies
from axsearch.store.claims import Assignment
from axsearch.store.database import Database, open_database
from axsearch.store.identity import GoneError
from axsearch.store.optuna_internals import id_of_study, id_of_trial
from axsearch.study.rankings import keep_ranking, rankings
from axsearch.study.study import Study
from tests.common_fixtures import copied
from tests.faults import cheap
from tests.faults import studies as made_studies
from tests.faults.cheap import Cheap, a_loop, recipe_of
from tests.faults.definition import check_nothing_lost, trials_of

PARAMS = {f"layer{layer:02d}.heads": 3 for layer in range(cheap.LAYERS)}


def _no() -> None:
    return


Ending = Callable[[Database, optuna.Trial, End], End]


class Meanwhile(Cheap):
    """Lets something happen within the first trial, and then ends it in its way."""

    def __init__(self, database: Database, happen: Callable[[], None], ending: Ending) -> None:
        super().__init__(0.0, _no, _no)
        self.database = database
        self.happen = happen
        self.ending = ending

    def evaluate(self, trial: optuna.Trial, recipe: Recipe) -> End:
        end = super().evaluate(trial, recipe)
        if trial.number > 0:
            return end
        self.happen()
        return self.ending(self.database, trial, end)


class Another:
    """Another worker, which is within the first trial of a study of the same name."""

    def __init__(self, url: str) -> None:
        self.database = open_database(url)
        self.storage = self.database.storage
        self.study = cheap.a_study(self.database)
        self.storage.work_on(Assignment(id_of_study(self.study), 3, "another|there|1|1"))
        self.recipe = recipe_of(PARAMS)
        self.storage.enqueue(id_of_study(self.study), self.recipe, PARAMS)
        self.trial = self.study.ask()
        for name, value in PARAMS.items():
            assert self.trial.suggest_int(name, 0, cheap.HEADS - 1) == value
        self.trial.set_user_attr("recipe", self.recipe.hash)
        assert self.storage.claim(id_of_trial(self.trial), self.recipe).state == "own"

    def rows(self) -> dict[str, list[tuple[object, ...]]]:
        """All that the database holds of studies and trials."""
        tables = (
            "studies", "study_system_attributes", "trials", "trial_params", "trial_values",
            "trial_user_attributes", "trial_system_attributes", "trial_intermediate_values",
            "trial_heartbeats", "ax_trials", "ax_artifacts",
        )  # fmt: skip
        with self.database.engine.connect() as connection:
            return {
                table: [tuple(row) for row in connection.execute(text(f"SELECT * FROM {table}"))]
                for table in tables
            }

    def end(self) -> None:
        accuracy, size = cheap.values_of(self.recipe)
        self.trial.set_user_attr("measurement", {"accuracy": accuracy, "size_ratio": size})
        columns = {"finished": True, "accuracy": accuracy, "size": size, "feasible": True}
        files = {"recipe.json": self.recipe.to_json().encode()}
        self.storage.at_end(id_of_trial(self.trial), columns, files)
        self.study.tell(self.trial, (accuracy, size))
        self.database.close()


def delete_study(url: str) -> None:
    """As somebody does in the dashboard."""
    database = open_database(url)
    optuna.delete_study(study_name=cheap.NAME, storage=database.storage)
    database.close()


def _complete(_database: Database, _trial: optuna.Trial, end: End) -> End:
    return end


def _beats(database: Database, trial: optuna.Trial, end: End) -> End:
    database.storage.record_heartbeat(id_of_trial(trial))
    return end


def _sets(database: Database, trial: optuna.Trial, end: End) -> End:
    trial.set_user_attr("note", "late")
    database.storage.set_trial_system_attr(id_of_trial(trial), "note", "late")
    database.storage.set_trial_intermediate_value(id_of_trial(trial), 0, 0.5)
    database.storage.flush()
    return end


def _claims(database: Database, trial: optuna.Trial, end: End) -> End:
    database.storage.claim(id_of_trial(trial), Recipe.of({}))
    return end


def _fails(_database: Database, _trial: optuna.Trial, _end: End) -> End:
    raise ValueError("no such layer")


def _stops_early(_database: Database, _trial: optuna.Trial, _end: End) -> End:
    return End(None, {"seconds": 0.1})


def _is_interrupted(_database: Database, _trial: optuna.Trial, _end: End) -> End:
    raise KeyboardInterrupt


ENDINGS = [_complete, _beats, _sets, _claims, _fails, _stops_early, _is_interrupted]


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_lands_in_a_study_that_was_made_again(url: str, ending: Ending) -> None:
    database = open_database(url)
    made: list[tuple[Another, object]] = []

    def again() -> None:
        delete_study(url)
        another = Another(url)
        with another.database.engine.begin() as connection:  # or a late one would change nothing
            connection.execute(text("UPDATE trial_heartbeats SET heartbeat = '2026-01-01'"))
        made.append((another, another.rows()))

    loop = a_loop(database, Meanwhile(database, again, ending), 3)
    run_late(loop, ending)
    [(another, before)] = made
    assert another.rows() == before
    with pytest.raises(GoneError):  # nor does it begin another trial there, or have one wait
        database.storage.create_new_trial(loop.assignment.study_id)
    with pytest.raises(GoneError):
        database.storage.enqueue(loop.assignment.study_id, Recipe.of({}), {})
    assert another.rows() == before
    database.close()
    another.end()
    finish(url)


def run_late(loop: TrialLoop, ending: Ending) -> None:
    """Run a worker until it notices."""
    if ending is _is_interrupted:
        with pytest.raises(KeyboardInterrupt):
            loop.run()
        return
    with pytest.raises(AxsearchError, match=r"'cheap' was deleted .* or its database"):
        loop.run()


def finish(url: str) -> None:
    """The same command, run again."""
    database = open_database(url)
    a_loop(database, Cheap(0.0, _no, _no), 3).run()
    database.close()
    check_nothing_lost(url, 3)


def restore(copy: str, url: str) -> None:
    """Write a copy of a SQLite database over it, in one transaction."""
    with (
        closing(sqlite3.connect(copy.removeprefix("sqlite:///"))) as source,
        closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as target,
    ):
        source.backup(target)


@pytest.fixture
def copies(sqlite_template: str, tmp_path: Path) -> tuple[str, Path]:
    """The URL of a SQLite database with the study, and a folder for a copy of it."""
    (tmp_path / "copy").mkdir()
    url = copied(sqlite_template, tmp_path)
    database = open_database(url)
    cheap.a_study(database)
    database.close()
    return url, tmp_path / "copy"


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_lands_in_a_trial_that_a_restored_copy_gave_to_another_worker(
    copies: tuple[str, Path], ending: Ending
) -> None:
    """The study is the same, down to its identity; the numbers of later trials are given again."""
    url, folder = copies
    made: list[tuple[Another, object]] = []
    database = open_database(url)
    loop = a_loop(database, Meanwhile(database, lambda: again(), ending), 3)
    loop.join()
    copy = copied(url, folder)

    def again() -> None:
        restore(copy, url)
        another = Another(url)
        with another.database.engine.begin() as connection:
            connection.execute(text("UPDATE trial_heartbeats SET heartbeat = '2026-01-01'"))
        made.append((another, another.rows()))

    run_late(loop, ending)
    [(another, before)] = made
    assert another.rows() == before
    database.close()
    another.end()
    finish(url)


@pytest.mark.parametrize("before", ["recipe", "claim"])
def test_a_trial_that_a_restored_copy_has_in_part_is_not_ended(
    copies: tuple[str, Path], before: str
) -> None:
    """Its parameters, or its row in ax_trials, would be missing for ever."""
    url, folder = copies
    database = open_database(url)
    copy: list[str] = []
    storage = database.storage
    name = {"recipe": "set_param", "claim": "claim"}[before]
    original = getattr(storage, name)

    def copy_first(*given: object) -> object:
        if not copy:
            copy.append(copied(url, folder))
        return original(*given)

    setattr(storage, name, copy_first)
    loop = a_loop(database, Meanwhile(database, lambda: restore(copy[0], url), _complete), 3)
    with pytest.raises(AxsearchError, match="replaced by a copy"):
        loop.run()
    database.close()
    (trial,) = trials_of(url)
    assert (trial.state, trial.values) == (TrialState.RUNNING, None)
    database = open_database(url)
    loop = a_loop(database, Cheap(0.0, _no, _no), 3)
    loop.is_dead = lambda _: True  # the worker above has ended, though its process has not
    loop.run()
    database.close()
    check_nothing_lost(url, 3)


def test_a_trial_that_was_lost_takes_nothing_more(url: str) -> None:
    database = open_database(url)
    study, storage = cheap.a_study(database), database.storage
    storage.work_on(Assignment(id_of_study(study), 3, "one"))
    trial = id_of_trial(study.ask())
    other = open_database(url)
    assert other.storage.retry_lost(id_of_study(study), lambda name: name == "one") == ([], [])
    other.close()
    for _ in range(2):  # when it notices, and when it has forgotten the trial
        with pytest.raises(UpdateFinishedTrialError):
            storage.claim(trial, Recipe.of({}))
        with pytest.raises(UpdateFinishedTrialError):
            storage.set_trial_user_attr(trial, "note", "late")
        with pytest.raises(UpdateFinishedTrialError):
            storage.set_trial_state_values(trial, TrialState.COMPLETE, [0.5, 0.5])
    database.close()


def test_a_lost_trial_is_not_failed_once_another_worker_has_its_number(url: str) -> None:
    database, ours = open_database(url), open_database(url)
    study = cheap.a_study(database)
    number = id_of_study(study)
    database.storage.work_on(Assignment(number, 3, "dead"))
    study.ask()
    (lost,) = ours.storage.others(number)
    database.close()
    delete_study(url)
    another = Another(url)
    before = another.rows()
    try:
        assert ours.storage.give_back(number, lost.trial_id, lost=lost) == "ended"
    except GoneError:  # PostgreSQL gives no number again
        assert number != id_of_study(another.study)
    assert another.rows() == before
    ours.close()
    another.end()


def test_a_worker_does_not_join_a_study_that_was_made_again_since_it_was_read(url: str) -> None:
    """Its model and data are those of the study before: loading them takes minutes."""
    database = open_database(url)
    study = cheap.a_study(database)
    identity = studies.study_identity(database.engine, cheap.NAME)
    assert identity is not None
    delete_study(url)
    assert studies.study_identity(database.engine, cheap.NAME) is None
    another = Another(url)
    before = another.rows()
    loop = TrialLoop(
        study, database.storage, Cheap(0.0, _no, _no), worker="late", wanted=3,
        is_dead=lambda _: False, identity=identity,
    )  # fmt: skip
    with pytest.raises(AxsearchError, match="'cheap' was deleted"):
        loop.join()
    assert not studies.change_attributes(
        database.engine, id_of_study(study), lambda _: {"note": "late"}, identity=identity
    )
    assert another.rows() == before
    database.close()
    another.end()


def test_deleting_a_study_leaves_the_rows_of_one_that_has_its_number_since(
    sqlite_template: str, tmp_path: Path
) -> None:
    url = copied(sqlite_template, tmp_path)
    database = open_database(url)
    study = cheap.a_study(database)
    forget = database.storage._forget

    def late(study_id: int) -> None:
        another.append(Another(url))
        forget(study_id)

    another: list[Another] = []
    database.storage._forget = late  # type: ignore[method-assign]
    optuna.delete_study(study_name=cheap.NAME, storage=database.storage)
    assert id_of_study(another[0].study) == id_of_study(study)
    assert len(another[0].rows()["ax_trials"]) == 1
    database.close()
    another[0].end()


def test_a_ranking_is_not_kept_with_a_study_that_was_made_again(tmp_path: Path) -> None:
    url = made_studies.make(tmp_path / "studies.db")
    study = Study.open(url, made_studies.NAME)
    members = [study.trial(1), study.trial(2)]
    keep_ranking(study, Scenario(), "w", "here", members, study.baseline)
    assert [ranking["trials"] for ranking in rankings(study).values()] == [[1, 2]]
    database = open_database(url)
    optuna.delete_study(study_name=made_studies.NAME, storage=database.storage)
    again = optuna.create_study(
        study_name=made_studies.NAME, storage=database.storage, directions=["maximize"] * 3
    )
    assert id_of_study(again) == study.id
    with pytest.raises(AxsearchError, match="deleted or replaced"):
        keep_ranking(study, Scenario(), "w", "here", members, members[0])
    assert again.user_attrs == {}
    database.close()
    study.database.close()
