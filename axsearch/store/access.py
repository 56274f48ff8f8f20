"""Whose database it is, and whether it can be written: looked at before anything is changed."""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text

from axsearch.errors import UsageError
from axsearch.store.models import TableBase
from axsearch.store.optuna_internals import OPTUNA_TABLES
from axsearch.store.sqlite import only_readable

VERSION_TABLE = "ax_alembic_version"
"""The table with the version of axsearch's tables; Optuna's own is ``alembic_version``."""

MARKS = (VERSION_TABLE, "version_info")
"""A database with one of these is axsearch's or Optuna's, whatever else is in it."""

OURS = {*TableBase.metadata.tables, *OPTUNA_TABLES, *MARKS, "alembic_version"}

NAMED = 5
"""Tables of another program that are named."""

EXTENSIONS = """
SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_depend d
ON d.objid = c.oid AND d.deptype = 'e' WHERE d.classid = 'pg_catalog.pg_class'::regclass
"""

MAY_WRITE = """
SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'
AND coalesce(has_table_privilege(to_regclass('trials'), 'INSERT, UPDATE'),
             has_schema_privilege(current_schema(), 'CREATE'))
"""


def check_owner(connection: Connection, shown: str) -> None:
    """Raises UsageError where a database holds tables of another program, and none of ours.

    One that only Optuna has used is ours to join.
    """
    tables = set(inspect(connection).get_table_names())
    if connection.dialect.name == "postgresql":
        tables -= set(connection.execute(text(EXTENSIONS)).scalars())
    foreign = sorted(tables - OURS)
    if not foreign or tables & set(MARKS):
        return
    named = ", ".join(foreign[:NAMED]) + (", …" if len(foreign) > NAMED else "")
    raise UsageError(
        f"The database {shown} belongs to another program (its tables: {named}) and was left as it "
        "is; name a database of its own for studies, such as sqlite:///studies.db."
    )


def may_write(connection: Connection) -> bool:
    """Whether a search could write here; MariaDB says so only when something is written."""
    if connection.dialect.name == "sqlite":
        return not only_readable(connection.engine.url)
    if connection.dialect.name == "postgresql":
        return bool(connection.scalar(text(MAY_WRITE)))
    return True
