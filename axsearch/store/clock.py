"""Seconds since a moment, by the database's own clock and in its own arithmetic.

All workers of a database share its clock, while that of each machine may be set. The difference is
taken in SQL, since a time that was read as one of a zone with summer time can be ambiguous.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class age(FunctionElement[float]):  # noqa: N801 - written in queries, like sqlalchemy.func's
    """Seconds since a time with a zone; SQLite's are UTC."""

    type = Double()
    inherit_cache = True


class age_of_utc(FunctionElement[float]):  # noqa: N801
    """Seconds since a time without a zone that is UTC, as Optuna writes those of trials."""

    type = Double()
    inherit_cache = True


@compiles(age, "sqlite")
@compiles(age_of_utc, "sqlite")
def _sqlite(element: FunctionElement[float], compiler: Any, **options: Any) -> str:
    moment = compiler.process(element.clauses, **options)
    return f"((julianday('now') - julianday({moment})) * 86400.0)"


@compiles(age, "postgresql")
def _postgresql(element: age, compiler: Any, **options: Any) -> str:
    moment = compiler.process(element.clauses, **options)
    return f"CAST(extract(epoch FROM now() - {moment}) AS double precision)"


@compiles(age_of_utc, "postgresql")
def _postgresql_of_utc(element: age_of_utc, compiler: Any, **options: Any) -> str:
    moment = compiler.process(element.clauses, **options)
    return f"CAST(extract(epoch FROM (now() AT TIME ZONE 'UTC') - {moment}) AS double precision)"


@compiles(age, "mysql", "mariadb")
def _mariadb(element: age, compiler: Any, **options: Any) -> str:
    moment = compiler.process(element.clauses, **options)
    return f"CAST(unix_timestamp(now(6)) - unix_timestamp({moment}) AS double)"


@compiles(age_of_utc, "mysql", "mariadb")
def _mariadb_of_utc(element: age_of_utc, compiler: Any, **options: Any) -> str:
    moment = compiler.process(element.clauses, **options)
    return f"(timestampdiff(MICROSECOND, {moment}, utc_timestamp(6)) / 1000000.0)"
