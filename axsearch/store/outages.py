"""Retry while a database is unavailable: restarts, cut connections, locks, deadlocks."""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import tenacity
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from axsearch.errors import AxsearchError, UsageError, cause
from axsearch.progress import console
from axsearch.store.urls import without_secrets
from axsearch.system import interrupts

P = ParamSpec("P")
R = TypeVar("R")

LONGEST = 120.0
"""Seconds after which an unavailable database counts as failed."""

SHORTEST = 5.0
"""Seconds that an attempt may take, however late it begins; one that is not repeated ends then."""

AFTER_SIGNAL = 2.0
"""Seconds that an attempt may take after a signal."""

SAY_AFTER = 5.0
"""Seconds after which a worker says that it waits for the database."""

log = logging.getLogger(__name__)

# Connections lost or refused, server shutting down or starting, too many clients, deadlocks, limits
# of time, rows that changed since a transaction began.
POSTGRESQL = ("08", "57P", "40001", "40P01", "53300", "55P03", "57014")
MYSQL = {1020, 1040, 1053, 1205, 1213, 1969, 2002, 2003, 2006, 2013, 3024, 4031}

PSYCOPG = ("psycopg", "psycopg2")

LOCKED = {"55P03", 1205}
READ_ONLY = {"25006", "42501", 1142, 1143, 1290, 1792}
"""Codes of PostgreSQL and MySQL: a lock that was not released; what must not be written."""

_state = threading.local()


def _driver(original: object) -> str:
    return type(original).__module__.partition(".")[0]


def _code(original: object) -> object:
    """PostgreSQL's state, MySQL's number or SQLite's sentence of what a driver raised."""
    if _driver(original) == "sqlite3":
        return str(original)
    if _driver(original) in PSYCOPG:
        return getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return (getattr(original, "args", None) or (None,))[0]


def _original(error: BaseException) -> BaseException:
    """What a driver raised, behind the errors of SQLAlchemy and Optuna's storage."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


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
    kind, code = _driver(error.orig), _code(error.orig)
    if kind == "sqlite3":
        return "locked" in str(code) or "busy" in str(code)
    if kind in PSYCOPG:
        # An error without a state means that the server did not answer.
        return (
            isinstance(error, OperationalError)
            if code is None
            else str(code).startswith(POSTGRESQL)
        )
    return code in MYSQL


def is_of_database(error: BaseException) -> bool:
    """Whether an exception comes from the database, through SQLAlchemy or Optuna's storage."""
    return isinstance(error, (SQLAlchemyError, StorageInternalError))


class DatabaseAwayError(AxsearchError):
    """The database was unavailable for longer than a worker waits."""


def database_error(error: BaseException) -> AxsearchError:
    """The error that a user sees after the database failed."""
    code, said = _code(_original(error)), said_by(error)
    if code in READ_ONLY or "readonly" in str(code):
        return UsageError(
            f"The database can only be read here ({said}); use one that can be written to, such as "
            "a copy of it."
        )
    if code in LOCKED or "locked" in str(code):
        return DatabaseAwayError(
            f"The database failed: another process, perhaps one that was stopped, has held a lock "
            f"for too long ({said}); end that process and run the same command."
        )
    sentence = f"The database failed: {said}; once it works again, run the same command."
    return DatabaseAwayError(sentence) if transient(error) else AxsearchError(sentence)


def said_by(error: BaseException) -> str:
    """What the database said, without secrets, to stand inside a sentence of ours."""
    return without_secrets(cause(_original(error)))


def patience(usual: float, waited: float = 0.0) -> float:
    """For how many seconds an answer of the database is waited for, from the question on.

    Less than usual where the two minutes of this thread's operation end before, and little after a
    signal. Says that it waits if it has ``waited`` for some time.
    """
    if interrupts.stopped():
        return AFTER_SIGNAL
    if waited > SAY_AFTER:
        _say("it does not answer")
    left = getattr(_state, "deadline", math.inf) - time.monotonic()
    return min(usual, max(waited + left, SHORTEST))


def _say(reason: str) -> None:
    """Say once why this operation waits, if it is one that the process waits for."""
    said: set[str] = getattr(_state, "said", set())
    if reason in said or threading.current_thread() is not threading.main_thread():
        return
    _state.said = {*said, reason}
    console.print(
        f"Waiting for the database, for up to {LONGEST:.0f} s: {reason}.",
        style="yellow",
        markup=False,
    )


def _failed(retry: tenacity.RetryCallState) -> None:
    """What is said and noted before an operation is tried again."""
    assert retry.outcome is not None
    error = retry.outcome.exception()
    assert error is not None
    log.info("The database failed at attempt %d: %s", retry.attempt_number, said_by(error))
    if (retry.seconds_since_start or 0.0) > SAY_AFTER:
        _say(said_by(error))


def attempts() -> Iterator[tenacity.AttemptManager]:
    """Attempts at an operation, for ``for attempt in attempts(): with attempt: …``.

    Within another operation that is itself retried there is only one attempt. A signal ends the
    work between two attempts.
    """
    if getattr(_state, "inside", False):
        yield from tenacity.Retrying(stop=tenacity.stop_after_attempt(1), reraise=True)
        return
    _state.inside, _state.deadline, _state.said = True, time.monotonic() + LONGEST, set()
    try:
        yield from tenacity.Retrying(
            retry=tenacity.retry_if_exception(transient),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
            stop=tenacity.stop_after_delay(LONGEST),
            sleep=interrupts.sleep,
            before_sleep=_failed,
            reraise=True,
        )
        if _state.said:
            console.print("The database answers again.", style="dim")
    finally:
        _state.inside, _state.deadline, _state.said = False, math.inf, set()


@contextmanager
def at_once() -> Iterator[None]:
    """A context in which nothing is retried in this thread, and little waited for."""
    before = getattr(_state, "inside", False), getattr(_state, "deadline", math.inf)
    _state.inside, _state.deadline = True, min(before[1], time.monotonic() + SHORTEST)
    try:
        yield
    finally:
        _state.inside, _state.deadline = before


def outlast(work: Callable[P, R]) -> Callable[P, R]:
    """Call a function again while the database is unavailable; it must be safe to repeat."""

    @functools.wraps(work)
    def patient(*args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in attempts():
            with attempt:
                result = work(*args, **kwargs)
        return result

    return patient
