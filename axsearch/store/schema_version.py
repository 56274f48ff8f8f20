"""The versions of tables as Alembic records them, read without it.

To import Alembic takes as long as all queries of a command that reads a study. It is needed only
where tables are made or changed.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

VERSIONS = Path(__file__).parent / "migrations" / "versions"


def recorded_version(connection: Connection, name: str) -> str | None:
    """The version in the table of this name; None where there is no such table, or nothing in it.

    A transaction that PostgreSQL has failed would serve no further statement, so the table is
    looked for before it is read.
    """
    if not inspect(connection).has_table(name):
        return None
    found: str | None = connection.scalar(select(column("version_num")).select_from(table(name)))
    return found


def newest_version() -> str:
    """The version of axsearch's own tables: that of the last of its migrations, by their names."""
    return max(path.name for path in VERSIONS.glob("v[0-9]*.py"))[1:5]
