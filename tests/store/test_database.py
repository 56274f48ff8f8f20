from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import optuna
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    MetaData,
    create_engine,
    event,
    insert,
    inspect,
    text,
)

from axsearch import Evaluator, Task, store
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.errors import UsageError
from axsearch.space.recipe import Recipe
from axsearch.statistics import pareto
from axsearch.statistics.outcome import Outcome, packed
from axsearch.store import database as opening
from axsearch.store.claims import Assignment, BudgetFullError
from axsearch.store.database import Database, check_database, open_database
from axsearch.store.models import RecipeRow, TableBase, TrialRow
from axsearch.store.queries import EvaluationKey, LatencyKey, load_evaluation, load_latency


@pytest.fixture
def url(new_url: str) -> str:
    """Tables are made by what is tested here."""
    return new_url


def test_opening_makes_both_kinds_of_tables_and_again_changes_nothing(url: str) -> None:
    for _ in range(2):
        database = open_database(url, create=True)
        tables = set(inspect(database.engine).get_table_names())
        database.close()
        assert {"studies", "trials", *TableBase.metadata.tables} <= tables


def test_migrations_give_the_tables_that_the_models_say(url: str) -> None:
    database = open_database(url, create=True)
    check_tables(database)
    database.close()


def check_tables(database: Database) -> None:
    """The tables are those of the models."""
    ours = {
        "include_name": lambda name, kind, _: kind != "table" or name in TableBase.metadata.tables
    }
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=ours)
        assert compare_metadata(context, TableBase.metadata) == []
        names = inspect(connection).get_table_names()
    assert not [name for name in names if name.startswith("old_")]


def test_a_newer_schema_is_refused(url: str) -> None:
    database = open_database(url, create=True)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE ax_alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(UsageError, match="newer axsearch"):
        open_database(url)


def test_sqlite_runs_in_wal_mode(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path / 'wal.db'}", create=True).close()
    with sqlite3.connect(tmp_path / "wal.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_what_cannot_be_opened_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, " * 100)
    for url, word in [
        ("nosuch://x", "URL such as"),
        (f"sqlite:///{tmp_path / 'none.db'}", "does not exist"),
        (f"sqlite:///{tmp_path / 'no' / 'where.db'}", "does not exist"),
        (f"sqlite:///{tmp_path / 'text.db'}", "cannot be opened"),
        ("postgresql://127.0.0.1:1/x?connect_timeout=2", "cannot be opened"),
    ]:
        with pytest.raises(UsageError, match=word) as caught:
            open_database(url)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="folder"):
        open_database(f"sqlite:///{tmp_path / 'no' / 'where.db'}", create=True)


def test_the_password_of_a_url_is_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        open_database("postgresql://ann:secret@127.0.0.1:1/x?connect_timeout=2")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann@127.0.0.1:1/x?connect_timeout=2&password=secret",
        "postgresql://ann@127.0.0.1:1/x?connect_timeout=2&sslpassword=secret",
        "postgresql://ann:top@secret@127.0.0.1:1/x?connect_timeout=2",
    ],
)
def test_nor_is_one_in_an_unusual_place(url: str) -> None:
    for look in (open_database, check_database):
        with pytest.raises(UsageError) as caught:
            look(url)
        assert "secret" not in str(caught.value)


def test_a_database_is_checked_without_making_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_database(url)
    if url.startswith("sqlite"):
        assert not list(tmp_path.iterdir())
    open_database(url, create=True).close()
    check_database(url)
    monkeypatch.setenv("AXSEARCH_GRACE_PERIOD", "soon")
    with pytest.raises(UsageError, match="AXSEARCH_GRACE_PERIOD"):
        check_database(url)


def upgrade(engine: Engine, revision: str) -> None:
    """Bring a new database to the schema of an earlier version."""
    config = Config()
    config.set_main_option("script_location", str(Path(store.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


class KilledError(Exception):
    """What a process that is killed raises here."""


def opened_after_kills(url: str) -> Database:
    """Open a database with processes that are killed after each statement that changes tables.

    Each begins where the last one ended. Such a statement is committed with all before it, as
    MariaDB does of itself; what the process did afterwards is rolled back.
    """
    done: set[str] = set()

    def migrate(url: URL) -> None:
        def before(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
            if statement.lstrip().startswith(CHANGES):
                connection.connection.commit()

        def after(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
            if statement.lstrip().startswith(CHANGES):
                connection.connection.commit()
                if statement not in done:
                    done.add(statement)
                    raise KilledError

        event.listen(Engine, "before_cursor_execute", before)
        event.listen(Engine, "after_cursor_execute", after)
        try:
            original(url)
        finally:
            event.remove(Engine, "before_cursor_execute", before)
            event.remove(Engine, "after_cursor_execute", after)

    original = opening._migrate
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(opening, "_migrate", migrate)
        for _ in range(200):
            try:
                opened = open_database(url, create=True)
            except KilledError:
                continue
            assert len(done) >= 3
            return opened
    raise AssertionError("the migrations do not come to an end")


CHANGES = ("ALTER", "CREATE", "DROP", "RENAME")


def opened(url: str) -> Database:
    """Open a database in one go."""
    return open_database(url.replace("+psycopg", ""))


def test_tables_are_made_after_kills(
    tmp_path: Path,
) -> None:
    check_tables_after_kills(f"sqlite:///{tmp_path / 'studies.db'}")


def check_tables_after_kills(url: str) -> None:
    """A new database."""
    database = opened_after_kills(url)
    check_tables(database)
    database.close()
    open_database(url).close()


def check_evaluations_of_the_first_version(url: str, open_it: Callable[[str], Database]) -> None:
    """Right and wrong answers stay; other metrics had kept too little and are left out."""
    right = np.random.default_rng(0).random(1003) < 0.8
    engine = create_engine(url)
    upgrade(engine, "0001")
    with engine.begin() as connection:
        recipe = Recipe.of({})
        connection.execute(
            text("INSERT INTO ax_recipes (hash, json) VALUES (:hash, :json)"),
            {"hash": recipe.hash, "json": recipe.to_json()},
        )
        for metric in ("accuracy", "f1"):
            connection.execute(
                text(
                    "INSERT INTO ax_evaluations (model, recipe, split, dtype, metric, split_name,"
                    " value, low, high, examples, outcome, created) VALUES ('m', :recipe, 's',"
                    " 'float32', :metric, 'search', 0.8, 0.7, 0.9, 1003, :outcome,"
                    " '2026-01-01 00:00:00')"
                ),
                {"recipe": recipe.hash, "metric": metric, "outcome": np.packbits(right).tobytes()},
            )
    engine.dispose()
    database = open_it(url)
    found = {
        metric: load_evaluation(
            database.engine, EvaluationKey("m", "c", "s", "float32", metric), recipe.hash
        )
        for metric in ("accuracy", "f1")
    }
    database.close()
    assert found["f1"] is None
    kept = found["accuracy"]
    assert kept is not None
    assert (kept.value, kept.outcome.statistic) == (0.8, "mean")
    np.testing.assert_array_equal(kept.outcome.values, right)


def test_an_evaluation_of_the_version_before_losses_is_done_again_once(
    url: str, base_dir: Path, data_dir: Path
) -> None:
    task, recipe = Task.load(str(base_dir), str(data_dir)), Recipe.of({})
    old = Outcome("mean", np.zeros(80, bool))  # not what this model answers
    engine = create_engine(url)
    upgrade(engine, "0002")
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO ax_recipes (hash, json) VALUES (:hash, :json)"),
            {"hash": recipe.hash, "json": recipe.to_json()},
        )
        for split in (task.search, task.holdout):
            connection.execute(
                text(
                    "INSERT INTO ax_evaluations (model, recipe, split, dtype, metric, split_name,"
                    " value, low, high, examples, statistic, outcome, created) VALUES (:model,"
                    " :recipe, :split, 'float32', 'accuracy', :name, 0.0, 0.0, 0.1, 80, 'mean',"
                    " :outcome, '2026-01-01 00:00:00')"
                ),
                {
                    "model": task.model_fingerprint,
                    "recipe": recipe.hash,
                    "split": split.fingerprint,
                    "name": split.name,
                    "outcome": old.packed(),
                },
            )
    engine.dispose()
    database = open_database(url.replace("+psycopg", ""))
    key = EvaluationKey(
        task.model_fingerprint, task.calibration.fingerprint, task.search.fingerprint, "float32",
        "accuracy",
    )  # fmt: skip
    known = load_evaluation(database.engine, key, recipe.hash)
    assert known is not None
    assert known.losses is None
    np.testing.assert_array_equal(known.outcome.values, old.values)
    for expected in (80, 0):
        evaluator = Evaluator(task, database.engine, None)
        assert evaluator.baseline.accuracy > 0.5
        assert evaluator.losses(recipe).shape == (80,)
        assert evaluator.examples_forwarded == expected
    with database.engine.connect() as connection:
        rows = connection.execute(text("SELECT split_name, losses FROM ax_evaluations")).all()
    database.close()
    assert {name: losses is not None for name, losses in rows} == {"search": True, "holdout": False}


OLD_SPEC = {
    "model": "base", "data": "reviews", "task": "text-classification", "metric": "accuracy",
    "objectives": ["accuracy", "size"], "machine": "there", "model_fingerprint": "m" * 64,
    "splits": {"calibration": "c" * 64, "search": "s" * 64, "holdout": "h" * 64},
}  # fmt: skip


def check_studies_of_version_0003(url: str, open_it: Callable[[str], Database]) -> None:
    """What a database of schema 0003 holds is found in SQL, and its front is the same."""
    engine = create_engine(url)
    upgrade(engine, "0003")
    storage = optuna.storages.RDBStorage(url)
    study = optuna.create_study(
        study_name="old", storage=storage, directions=["maximize", "minimize"]
    )
    draw = np.random.default_rng(0)
    recipes = [
        Recipe.of({SiteId(0, "ffn"): {"ffn": Kept(of=64, kept=tuple(range(n)))}})
        for n in range(1, 21)
    ]
    with engine.begin() as connection:
        for recipe in recipes:
            connection.execute(
                text("INSERT INTO ax_recipes (hash, json) VALUES (:hash, :json)"),
                {"hash": recipe.hash, "json": recipe.to_json()},
            )
        connection.execute(
            text("INSERT INTO ax_studies (name, spec, created) VALUES ('old', :spec, :now)"),
            {"spec": json.dumps(OLD_SPEC), "now": "2026-01-01 00:00:00"},
        )
        connection.execute(
            text(
                "INSERT INTO ax_latencies (model, recipe, workload, machine, scenario, model_ms,"
                " base_ms, ratio, low, high, pairs, created) VALUES ('m', :recipe, 'w',"
                " 'elsewhere', '{}', 1, 2, 0.5, 0.4, 0.6, 5, '2026-01-01 00:00:00')"
            ),
            {"recipe": recipes[0].hash},
        )
    for number, recipe in enumerate([*recipes, recipes[3]]):
        accuracy, size = round(float(draw.random()), 2), round(float(draw.random()), 2)
        measured = {
            "accuracy": accuracy, "accuracy_low": 0.0, "accuracy_high": 1.0,
            "latency_ratio": None, "size_ratio": size, "size_bytes": 7, "parameters": 3,
        }  # fmt: skip
        pruned = number == 5
        over = [0.1] if number == 7 else [-0.1]
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
                values=None if pruned else [accuracy, size],
                user_attrs={"recipe": recipe.hash, "measurement": measured},
                system_attrs={"constraints": over},
            )
        )
    study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs={"recipe": "x"}))
    engine.dispose()
    storage.remove_session()
    storage.engine.dispose()
    database = open_it(url)
    with database.engine.connect() as connection:
        kept = connection.execute(
            text("SELECT count(*), sum(CASE WHEN accuracy IS NULL THEN 1 ELSE 0 END) FROM ax_trials"
                 " WHERE finished")
        ).one()  # fmt: skip
        front = connection.execute(text("SELECT trial FROM ax_front WHERE study = 'old'")).scalars()
        machines = connection.execute(text("SELECT name FROM ax_machines ORDER BY name")).scalars()
        of_study = connection.execute(
            text("SELECT s.objectives, t.metric, m.name, s.trials FROM ax_studies s"
                 " JOIN ax_tasks t ON t.fingerprint = s.task"
                 " JOIN ax_models m ON m.fingerprint = s.model")
        ).one()  # fmt: skip
        assert tuple(kept) == (20, 1)  # distinct recipes, one of them stopped
        assert list(machines) == ["elsewhere", "there"]
        assert tuple(of_study) == ("accuracy,size", "accuracy", "base", None)
        loaded = optuna.load_study(study_name="old", storage=database.storage)
        values = {t.number: t.values for t in loaded.trials if t.values and t.number not in (7, 20)}
        expected = [
            a for a, (high, small) in values.items()
            if not any(
                h >= high and s <= small and ((h, s) != (high, small) or b < a)
                for b, (h, s) in values.items() if b != a
            )
        ]  # fmt: skip
        assert sorted(front) == sorted(expected)
    database.storage.work_on(Assignment(loaded._study_id, 20, "me"))
    with pytest.raises(BudgetFullError):  # they count
        database.storage.create_new_trial(loaded._study_id)
    database.close()


def check_what_was_measured_before_there_were_weights(
    url: str, open_it: Callable[[str], Database]
) -> None:
    """It is of the closed form."""
    recipe, right = Recipe.of({}), Outcome("mean", np.array([True, False, True]))
    losses = np.array([0.1, 2.0, 0.3], np.float32)
    latency = {"model_ms": 1.0, "base_ms": 2.0, "ratio": 0.5, "low": 0.4, "high": 0.6, "pairs": 5}
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def rows_of(connection: Connection, split: str) -> None:
        """Rows as the version before writes them, which knows no weights."""
        tables = MetaData()
        tables.reflect(connection, only=["ax_evaluations", "ax_latencies", "ax_exports"])
        evaluation = {
            "model": "m", "recipe": recipe.hash, "split": split, "dtype": "float32",
            "metric": "accuracy", "stage": "whole", "split_name": "search", "value": 0.8,
            "low": 0.7, "high": 0.9, "examples": 3, "statistic": "mean",
            "outcome": right.packed(), "losses": packed(losses), "created": now,
        }  # fmt: skip
        timed = {
            "model": "m", "recipe": recipe.hash, "workload": split, "machine": "here",
            "scenario": "{}", "created": now, **latency,
        }  # fmt: skip
        exported = {
            "study": "one", "trial": 7, "recipe": recipe.hash, "format": "hf", "path": split,
            "sha256": "5", "created": now,
        }  # fmt: skip
        for table, row in (
            ("ax_evaluations", evaluation), ("ax_latencies", timed), ("ax_exports", exported),
        ):  # fmt: skip
            connection.execute(insert(tables.tables[table]), row)

    theirs = optuna.storages.RDBStorage(url)  # Optuna's tables, which ax_front is a view on
    theirs.remove_session()
    theirs.engine.dispose()
    engine = create_engine(url)
    upgrade(engine, "0004")
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO ax_recipes (hash, json) VALUES (:hash, :json)"),
            {"hash": recipe.hash, "json": recipe.to_json()},
        )
        connection.execute(
            text("INSERT INTO ax_machines (name, created) VALUES ('here', :now)"), {"now": now}
        )
        rows_of(connection, "s")
    engine.dispose()
    database = open_it(url)
    with database.engine.begin() as connection:
        rows_of(connection, "t")  # a worker of the version before that still runs
    for split in ("s", "t"):
        key = EvaluationKey("m", "c", split, "float32", "accuracy")
        known = load_evaluation(database.engine, key, recipe.hash)
        assert known is not None
        assert (known.value, known.low, known.high) == (0.8, 0.7, 0.9)
        np.testing.assert_array_equal(known.outcome.values, right.values)
        np.testing.assert_array_equal(known.losses, losses)
        timed = load_latency(database.engine, LatencyKey("m", split, "here"), recipe.hash)
        assert timed == latency
    with database.engine.connect() as connection:
        for table in ("ax_evaluations", "ax_latencies", "ax_exports"):
            found = connection.execute(text(f"SELECT weights FROM {table}")).scalars().all()
            assert found == ["", ""]
    database.close()


def check_trials_before_any_was_recovered(url: str, open_it: Callable[[str], Database]) -> None:
    """They are of searches, and their front, and what people made of it, stays."""
    theirs = optuna.storages.RDBStorage(url)
    study = optuna.create_study(storage=theirs, directions=["maximize", "minimize"])
    trials = [(0.9, 0.5), (0.8, 0.6), (0.7, 0.4), (0.95, 0.45)]
    for values in trials:
        study.add_trial(optuna.trial.create_trial(values=values))
    theirs.remove_session()
    theirs.engine.dispose()
    engine = create_engine(url)
    upgrade(engine, "0006")

    def rows_of(connection: Connection, trial: int, accuracy: float, size: float) -> None:
        """Rows as the version before writes them."""
        tables = MetaData()
        tables.reflect(connection, only=["ax_recipes", "ax_trials"])
        recipe = Recipe.of({SiteId(trial, "ffn"): {"ffn": Kept(of=4, kept=(1,))}})
        known = {"hash": recipe.hash, "json": recipe.to_json()}
        connection.execute(insert(tables.tables["ax_recipes"]).values(known))
        row = {
            "study_id": 1, "recipe": recipe.hash, "trial_id": trial, "attempt": 1,
            "finished": True, "feasible": True, "accuracy": accuracy, "size": size,
        }  # fmt: skip
        connection.execute(insert(tables.tables["ax_trials"]).values(row))

    with engine.begin() as connection:
        for number, values in enumerate(trials[:3], 1):
            rows_of(connection, number, *values)
        connection.execute(text("CREATE VIEW mine AS SELECT trial FROM ax_front"))
    engine.dispose()
    database = open_it(url)
    with database.engine.begin() as connection:
        found = connection.execute(text("SELECT trial, recovered_from FROM ax_front")).all()
        assert sorted(map(tuple, found)) == [(0, None), (2, None)]
        rows_of(connection, 4, *trials[3])  # a worker of the version before that still runs
        names = [one["name"] for one in inspect(connection).get_columns("ax_front")]
        assert names[-2:] == ["trial_id", "recovered_from"]
        assert sorted(connection.execute(text("SELECT trial FROM mine")).scalars()) == [2, 3]
    assert database.storage.finished(1) == 4
    database.close()


EARLIER = [
    check_evaluations_of_the_first_version,
    check_studies_of_version_0003,
    check_what_was_measured_before_there_were_weights,
    check_trials_before_any_was_recovered,
]


@pytest.mark.parametrize("check", EARLIER)
def test_earlier_databases_are_brought_up_to_date(
    url: str, check: Callable[[str, Callable[[str], Database]], None]
) -> None:
    check(url, opened)


@pytest.mark.parametrize("check", EARLIER)
def test_earlier_databases_are_brought_up_to_date_after_kills(
    tmp_path: Path, check: Callable[[str, Callable[[str], Database]], None]
) -> None:
    check(f"sqlite:///{tmp_path / 'studies.db'}", opened_after_kills)


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "size"), "all"])
def test_the_view_of_the_front_is_the_front(url: str, objectives: object) -> None:
    """Random trials with ties, failures, limits that are broken, and another study beside."""
    names = ("accuracy", "latency", "size") if objectives == "all" else objectives
    assert isinstance(names, tuple)
    draw = np.random.default_rng(1)
    database = open_database(url, create=True)
    expected: dict[str, list[int]] = {}
    for name in ("one", "two"):
        study = database.storage.create_new_study([StudyDirection.MAXIMIZE] * len(names), name)
        rows, points = [], []
        for number in range(150):
            trial = database.storage.create_new_trial(study)
            accuracy, latency, size = (round(float(x), 1) for x in draw.random(3))
            feasible, finished = draw.random() < 0.8, draw.random() < 0.9
            recipe = f"{name} {number}"
            rows.append({
                "study_id": study, "recipe": recipe, "trial_id": trial, "attempt": 1,
                "finished": finished, "feasible": feasible and finished,
                "accuracy": accuracy if finished else None,
                "latency": latency if "latency" in names else None,
                "size": size if "size" in names else None,
            })  # fmt: skip
            if feasible and finished:
                all_losses = {"accuracy": -accuracy, "latency": latency, "size": size}
                points.append((number, [all_losses[n] for n in names]))
        with database.engine.begin() as connection:
            recipes = [{"hash": row["recipe"], "json": "{}"} for row in rows]
            connection.execute(insert(RecipeRow), recipes)
            connection.execute(insert(TrialRow), rows)
        kept = pareto.front([losses for _, losses in points])
        expected[name] = [points[i][0] for i in kept]
    with database.engine.connect() as connection:
        found = connection.execute(text("SELECT study, trial FROM ax_front")).all()
    database.close()
    for name in expected:
        assert sorted(row.trial for row in found if row.study == name) == expected[name]
