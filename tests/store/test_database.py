from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from axsearch.errors import UsageError
from axsearch.store.database import open_database
from axsearch.store.models import Base


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
