from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text

from axsearch import Evaluator, Task, store
from axsearch.errors import UsageError
from axsearch.outcome import Outcome
from axsearch.recipe import Recipe
from axsearch.store.database import open_database
from axsearch.store.models import Base
from axsearch.store.queries import EvaluationKey, load_evaluation


def test_opening_makes_both_kinds_of_tables_and_again_changes_nothing(url: str) -> None:
    for _ in range(2):
        database = open_database(url, create=True)
        tables = set(inspect(database.engine).get_table_names())
        database.close()
        assert {"studies", "trials", *Base.metadata.tables} <= tables


def test_migrations_give_the_tables_that_the_models_say(url: str) -> None:
    database = open_database(url, create=True)
    ours = {"include_name": lambda name, kind, _: kind != "table" or name in Base.metadata.tables}
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=ours)
        assert compare_metadata(context, Base.metadata) == []
    database.close()


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
        ("studies.db", "database URL"),
        ("nosuch://x", "database URL"),
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


def upgrade(engine: Engine, revision: str) -> None:
    """Bring a new database to the schema of an earlier version."""
    config = Config()
    config.set_main_option("script_location", str(Path(store.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_evaluations_of_the_first_version_are_read_or_done_again(url: str) -> None:
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
    database = open_database(url.replace("+psycopg", ""))
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
        assert evaluator.base.accuracy > 0.5
        assert evaluator.losses(recipe).shape == (80,)
        assert evaluator.examples_forwarded == expected
    with database.engine.connect() as connection:
        rows = connection.execute(text("SELECT split_name, losses FROM ax_evaluations")).all()
    database.close()
    assert {name: losses is not None for name, losses in rows} == {"search": True, "holdout": False}
