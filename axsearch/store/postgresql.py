"""PostgreSQL: limits of time that the server keeps, and connections that end with a silent one."""

from __future__ import annotations

import math
import os
import time
from functools import cache
from typing import Any

from axsearch.store.limits import Limits
from axsearch.store.outages import patience

LIBPQ = ("psycopg", "psycopg2")
"""Drivers that take libpq's arguments."""

UNSET = ("default", "configuration file")
"""Where a setting comes from that neither the user nor whoever made the database has chosen."""


def connect(dialect: Any, given: list[Any], named: dict[str, Any], limits: Limits) -> Any:
    """A connection of any driver, which waits no longer than the limits say.

    Args:
        dialect: SQLAlchemy's, of the driver.
        given: arguments of the driver's ``connect``.
        named: likewise; they come before what is added.
        limits: of time.
    """
    added: dict[str, Any] = {}
    if dialect.driver in LIBPQ:
        added = {
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 2,
            "tcp_user_timeout": round(limits.silence * 1000),
        }
        if "PGCONNECT_TIMEOUT" not in os.environ:
            added["connect_timeout"] = max(round(patience(limits.connect)), 2)  # libpq's least
    if dialect.driver != "psycopg":
        connection = dialect.connect(*given, **{**added, **named})
        set_limits(connection, limits)
        return connection
    connection = connection_class().connect(*given, **{**added, **named})
    connection.silence = limits.silence
    connection.silence = set_limits(connection, limits) + limits.more
    return connection


def set_limits(connection: Any, limits: Limits) -> float:
    """Set the limits that the server keeps, where no one has set others.

    Returns the seconds after which the server has certainly ended a statement, infinite where
    somebody wanted no limit.
    """
    wanted = {
        "statement_timeout": limits.statement,
        "lock_timeout": limits.lock,
        "idle_in_transaction_session_timeout": limits.idle,
    }
    cursor = connection.cursor()
    cursor.execute(
        "SELECT name, setting, source FROM pg_catalog.pg_settings WHERE name = ANY(%s)",
        (list(wanted),),
    )
    for name, setting, source in cursor.fetchall():
        if source in UNSET and int(setting) == 0:
            milliseconds = str(round(wanted[name] * 1000))
            cursor.execute("SELECT set_config(%s, %s, false)", (name, milliseconds))
        else:
            wanted[name] = int(setting) / 1000 or math.inf
    connection.commit()
    cursor.close()
    return wanted["statement_timeout"]


@cache
def connection_class() -> Any:
    """The class of psycopg's connections, whose waiting for the server ends; imports psycopg."""
    import psycopg

    class Connection(psycopg.Connection[Any]):
        """A connection that is closed where the server says nothing for too long.

        TCP notices that a machine has gone, but not that its server hangs, and a Unix socket
        neither.
        """

        silence = math.inf

        def wait(self, gen: Any, *args: Any, **given: Any) -> Any:
            """Wait for the server, as psycopg does; OperationalError where it stays silent."""
            return super().wait(self._watched(gen), *args, **given)

        def _watched(self, steps: Any) -> Any:
            heard = time.monotonic()
            try:
                waits_for = next(steps)
                while True:
                    ready = yield waits_for  # nothing ten times a second, while nothing happens
                    now = time.monotonic()
                    if ready:
                        heard = now
                    elif now - heard > patience(self.silence, now - heard):
                        self.close()
                        raise psycopg.OperationalError(
                            f"the server has not answered for {now - heard:.0f} s"
                        )
                    waits_for = steps.send(ready)
            except StopIteration as end:
                return end.value

    return Connection
