"""MariaDB and MySQL: limits of time that the server keeps, and those of their drivers."""

from __future__ import annotations

import re
from typing import Any

from axsearch.errors import UsageError, cause
from axsearch.store.limits import Limits
from axsearch.store.outages import patience
from axsearch.store.urls import without_secrets

DRIVERS = ("pymysql", "mysqldb")


def connect(dialect: Any, given: list[Any], named: dict[str, Any], limits: Limits) -> Any:
    """A connection of any driver, which waits no longer than the limits say.

    Args:
        dialect: SQLAlchemy's, of the driver.
        given: arguments of the driver's ``connect``.
        named: likewise; they come before what is added.
        limits: of time.

    Raises UsageError for an argument that the driver does not know.
    """
    added = {}
    if dialect.driver in DRIVERS:
        added = {
            "connect_timeout": round(patience(limits.connect)),
            "read_timeout": round(limits.silence),
            "write_timeout": round(limits.silence),
        }
    try:
        connection = dialect.connect(*given, **{**added, **named})
    except TypeError as error:
        raise UsageError(
            f"The driver {dialect.driver} does not know an option of the storage's URL: "
            f"{without_secrets(cause(error))}."
        ) from None
    set_limits(connection, limits, str(named.get("init_command", "")))
    return connection


def set_limits(connection: Any, limits: Limits, chosen: str) -> None:
    """Set the limits that the server keeps; ``chosen`` is what the user sets on a connection."""
    cursor = connection.cursor()
    cursor.execute("SELECT VERSION()")
    mariadb = "mariadb" in str(cursor.fetchone()[0]).lower()
    wanted = {"innodb_lock_wait_timeout": limits.lock, "lock_wait_timeout": limits.lock}
    if mariadb:
        wanted |= {"max_statement_time": limits.statement, "idle_transaction_timeout": limits.idle}
    else:  # MySQL ends idle sessions in and out of transactions; those are opened again
        wanted |= {"max_execution_time": limits.statement * 1000, "wait_timeout": limits.idle}
    settings = [
        f"{name} = {value:.0f}"
        for name, value in wanted.items()
        if not re.search(rf"\b{name}\b", chosen)
    ]
    if settings:
        cursor.execute(f"SET SESSION {', '.join(settings)}")
    cursor.close()
