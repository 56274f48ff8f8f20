"""Steps of migrations that can be repeated, each done where it is not done yet.

MariaDB commits each statement that changes tables, so a migration that is killed there leaves a
part of itself, and is run again from its start. Its rules, in every migration:

- a change of tables is one of these steps, or looks for itself whether it is still to be done;
- rows are changed after the last change of tables, in one transaction with the version, or are
  copied from a table that is dropped only afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op


def has_table(name: str) -> bool:
    """Whether there is a table of this name."""
    return sa.inspect(op.get_bind()).has_table(name)


def has_column(table: str, name: str) -> bool:
    """Whether a table is there and has a column of this name."""
    found = sa.inspect(op.get_bind())
    return found.has_table(table) and name in {one["name"] for one in found.get_columns(table)}


def create_table(name: str, *columns: sa.Column[Any]) -> None:
    """Create a table, with the indexes that its columns ask for."""
    indexed = [column.name for column in columns if column.index]
    for column in columns:
        column.index = None  # made below: they are statements of their own
    if not has_table(name):
        op.create_table(name, *columns)
    for of in indexed:
        create_index(f"ix_{name}_{of}", name, [of])


def create_index(name: str, table: str, columns: Sequence[str]) -> None:
    """Create an index."""
    if name not in _indexes(table):
        op.create_index(name, table, list(columns))


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Add a column."""
    if not has_column(table, column.name):
        op.add_column(table, column)


def rebuild(
    table: str,
    columns: Sequence[sa.Column[Any]],
    fill: Callable[[], None],
    *,
    new: str,
    indexes: Sequence[str] = (),
) -> None:
    """Make a table again with other columns, since not every database can change all of one.

    Args:
        table: its name; it is renamed to ``old_`` and this, and dropped at the end.
        columns: of the new one.
        fill: copies the rows of the old one, and may be called again after it was interrupted.
        new: a column that the old one lacks.
        indexes: of the old one, those that the new one has by the same names.
    """
    old = f"old_{table}"
    if not has_table(old):
        if has_column(table, new):
            return
        op.rename_table(table, old)
    for name in indexes:
        if name in _indexes(old):
            op.drop_index(name, old)
    create_table(table, *columns)
    op.execute(sa.table(table).delete())  # of an earlier attempt
    fill()
    op.drop_table(old)


def _indexes(table: str) -> set[str | None]:
    return {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}
