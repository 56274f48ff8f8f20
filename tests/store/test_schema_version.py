from __future__ import annotations

import optuna
import pytest
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, text

from axsearch.errors import UsageError
from axsearch.store.database import migrations, open_database
from axsearch.store.optuna_internals import TABLES_VERSION
from axsearch.store.schema_version import newest_version, recorded_version

OPTUNA = "alembic_version"


def test_the_newest_version_is_that_of_the_last_migration() -> None:
    assert newest_version() == ScriptDirectory.from_config(migrations()).get_current_head()


def test_the_version_of_optuna_s_tables_is_the_one_that_it_makes() -> None:
    storage = RDBStorage("sqlite://")
    assert storage.get_head_version() == TABLES_VERSION == storage.get_current_version()
    storage.engine.dispose()


def test_a_version_is_read_as_alembic_reads_it(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for name in (OPTUNA, "ax_alembic_version"):
            context = MigrationContext.configure(connection, opts={"version_table": name})
            assert recorded_version(connection, name) == context.get_current_revision() is not None
        assert recorded_version(connection, "no_such_table") is None
        connection.execute(text(f"DELETE FROM {OPTUNA}"))
        assert recorded_version(connection, OPTUNA) is None
    engine.dispose()


def test_a_new_database_has_the_version_of_optuna_s_tables(new_url: str) -> None:
    database = open_database(new_url, create=True)
    with database.engine.connect() as connection:
        assert recorded_version(connection, OPTUNA) == TABLES_VERSION
    database.close()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("version", "advice"), [("v3.0.0.a", "optuna storage upgrade"), ("v9", "updating optuna")]
)
def test_tables_of_another_optuna_are_refused_with_what_to_do(
    url: str, version: str, advice: str
) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {OPTUNA} SET version_num = '{version}'"))
    engine.dispose()
    with pytest.raises(UsageError, match=rf"(?s){optuna.__version__}.*{advice}"):
        open_database(url)
