"""Retry while a database is unavailable: restarts, cut connections, locks, deadlocks."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import tenacity
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from axsearch.errors import AxsearchError, cause

P = ParamSpec("P")
R = TypeVar("R")

LONGEST = 120.0
"""Seconds after which an unavailable database counts as failed."""

log = logging.getLogger(__name__)

# Connections lost or refused, server shutting down or starting, too many clients, deadlocks, rows
# that changed since a transaction began.
POSTGRESQL = ("08", "57P", "40001", "40P01", "53300", "55P03")
MYSQL = {1020, 1040, 1053, 1205, 1213, 2002, 2003, 2006, 2013, 4031}

_state = threading.local()


def transient(error: BaseException) -> bool:
    """Whether the same statement may succeed in a moment.

    Not so for a full disk, a missing table or a refused password.
    """
    while not isinstance(error, SQLAlchemyError) and error.__cause__ is not None:
        error = error.__cause__  # Optuna's storage wraps what SQLAlchemy raised
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    original = error.orig
    kind = type(original).__module__.partition(".")[0]
    if kind == "sqlite3":
        return "locked" in str(original) or "busy" in str(original)
    if kind == "psycopg":
        state = getattr(original, "sqlstate", None)
        # An error without a state means that the server did not answer.
        return (
            isinstance(error, OperationalError) if state is None else state.startswith(POSTGRESQL)
        )
    return bool(getattr(original, "args", None)) and original.args[0] in MYSQL  # type: ignore[union-attr]


def is_of_database(error: BaseException) -> bool:
    """Whether an exception comes from the database, through SQLAlchemy or Optuna's storage."""
    return isinstance(error, (SQLAlchemyError, StorageInternalError))


class DatabaseAwayError(AxsearchError):
    """The database was unavailable for longer than a worker waits."""


def database_error(error: BaseException) -> AxsearchError:
    """The error that a user sees after the database failed."""
    original = error
    while (deeper := original.__cause__) is not None:
        original = deeper
    sentence = f"The database failed: {cause(original)}; once it works again, run the same command."
    return DatabaseAwayError(sentence) if transient(error) else AxsearchError(sentence)


def attempts() -> Iterator[tenacity.AttemptManager]:
    """Attempts at an operation, for ``for attempt in attempts(): with attempt: …``.

    Within another operation that is itself retried there is only one attempt.
    """
    if getattr(_state, "inside", False):
        yield from tenacity.Retrying(stop=tenacity.stop_after_attempt(1), reraise=True)
        return
    _state.inside = True
    try:
        yield from tenacity.Retrying(
            retry=tenacity.retry_if_exception(transient),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
            stop=tenacity.stop_after_delay(LONGEST),
            before_sleep=tenacity.before_sleep_log(log, logging.INFO),
            reraise=True,
        )
    finally:
        _state.inside = False


@contextmanager
def at_once() -> Iterator[None]:
    """A context in which nothing is retried in this thread."""
    before = getattr(_state, "inside", False)
    _state.inside = True
    try:
        yield
    finally:
        _state.inside = before


def outlast(work: Callable[P, R]) -> Callable[P, R]:
    """Call a function again while the database is unavailable; it must be safe to repeat."""

    @functools.wraps(work)
    def patient(*args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in attempts():
            with attempt:
                result = work(*args, **kwargs)
        return result

    return patient
