"""Open a database: Optuna's storage and axsearch's tables behind one engine."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import tenacity
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from axsearch.errors import UsageError, cause
from axsearch.store.schema_version import newest_version, recorded_version
from axsearch.store.work_storage import WorkStorage

if TYPE_CHECKING:
    from alembic.config import Config

SQLITE_TIMEOUT = 60

GRACE_PERIOD = 120.0
"""Seconds without a heartbeat after which a worker counts as dead."""

GRACE_VARIABLE = "AXSEARCH_GRACE_PERIOD"

VERSION_TABLE = "ax_alembic_version"
"""The table with the version of axsearch's tables; Optuna's own is ``alembic_version``."""

SECRET = re.compile("pass|pwd|secret|token|key", re.IGNORECASE)
"""Parts of the names of URL options whose values are not shown."""

LOCK = 0x6178
"""The PostgreSQL advisory lock that is held while tables are changed."""

_migrating = threading.Lock()  # Alembic's context is the process's

optuna.logging.set_verbosity(optuna.logging.ERROR)  # the search reports failed trials
logging.getLogger("alembic").setLevel(logging.WARNING)


class Database:
    """An open database: ``storage`` is Optuna's view of it, ``engine`` SQLAlchemy's."""

    def __init__(self, storage: WorkStorage) -> None:
        self.storage = storage
        self.engine: Engine = storage.engine

    @property
    def url(self) -> str:
        """The URL, without its password."""
        return shown_url(self.engine.url)

    def close(self) -> None:
        """Write pending data of trials that did not end, and close the connections."""
        with suppress(optuna.exceptions.StorageInternalError):
            self.storage.flush()
        self.storage.remove_session()
        self.engine.dispose()


def open_database(url: str, *, create: bool = False) -> Database:
    """Open the database at a SQLAlchemy URL, and upgrade axsearch's tables if they are older.

    SQLite runs in WAL mode and waits 60 s for a lock. With ``create``, a SQLite file that does
    not exist is created; otherwise it is an error. Raises UsageError if it cannot be opened; the
    password of a URL is never shown.
    """
    parsed, arguments = _checked(url, create)
    shown = shown_url(parsed)
    grace = grace_period()
    database = None
    try:
        if parsed.get_backend_name() == "sqlite":
            _use_wal(parsed, arguments)
        database = Database(_storage(parsed, arguments, grace))
        _migrate(database.engine, shown)
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        if database is not None:
            database.close()
        raise _not_opened(shown, error) from error
    except UsageError:
        if database is not None:
            database.close()
        raise
    return database


@contextmanager
def peek(url: str) -> Iterator[Engine]:
    """An engine on a database as it is, without upgrading it.

    Raises UsageError like :func:`open_database`.
    """
    parsed, arguments = _checked(url, create=False)
    try:
        engine = create_engine(parsed, **arguments)
    except ImportError as error:
        raise _not_opened(shown_url(parsed), error) from None
    try:
        yield engine
    except SQLAlchemyError as error:
        raise _not_opened(shown_url(parsed), error) from None
    finally:
        engine.dispose()


def check_database(url: str) -> None:
    """Raises UsageError if :func:`open_database` could not create or open it; changes nothing."""
    grace_period()
    parsed, _ = _checked(url, create=True)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).exists():
        return
    with peek(url) as engine, engine.connect() as connection:
        schema_version(connection)


def shown_url(url: URL) -> str:
    """A URL without passwords, including those among its options."""
    secret = [name for name in url.query if SECRET.search(name)]
    return url.difference_update_query(secret).render_as_string(hide_password=True)


def _checked(url: str, create: bool) -> tuple[URL, dict[str, Any]]:
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite":
        return parsed, {"pool_pre_ping": True}
    if parsed.database in (None, "", ":memory:"):
        raise UsageError("A database in memory is lost at the end; name a file.")
    path = Path(str(parsed.database))
    if not create and not path.is_file():
        raise UsageError(f"The database {path} does not exist; run `axsearch search` first.")
    if not path.parent.is_dir():
        raise UsageError(f"The folder {path.parent} of the database does not exist.")
    return parsed, {"connect_args": {"timeout": SQLITE_TIMEOUT}}


def _not_opened(shown: str, error: Exception) -> UsageError:
    reason = cause(getattr(error, "orig", None) or error)
    return UsageError(f"The database {shown} cannot be opened: {reason}.")


def grace_period() -> float:
    """Seconds without a heartbeat after which a worker counts as dead.

    From ``AXSEARCH_GRACE_PERIOD``, which must be the same for all workers of a study; otherwise
    120.
    """
    given = os.environ.get(GRACE_VARIABLE, GRACE_PERIOD)
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < math.inf:
        raise UsageError(f"{GRACE_VARIABLE} must be a number of seconds from 1 up, not {given!r}.")
    return seconds


def _is_race(error: BaseException) -> bool:
    # Two processes create the tables of a new database at once: the second finds them existing.
    return isinstance(error, IntegrityError) or "exist" in str(error).lower()


@tenacity.retry(
    retry=tenacity.retry_if_exception(_is_race),
    wait=tenacity.wait_random(0.05, 0.5),
    stop=tenacity.stop_after_attempt(10),
    reraise=True,
)
def _storage(url: URL, arguments: dict[str, Any], grace: float) -> WorkStorage:
    return WorkStorage(
        url.render_as_string(hide_password=False), engine_kwargs=arguments, grace_period=grace
    )


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise UsageError(
            "The storage is not a database URL such as sqlite:///studies.db."
        ) from None
    except ImportError as error:
        raise UsageError(f"The driver of the storage is not installed: {error}.") from None
    if "@" in (parsed.host or ""):  # else the end of the password is read as a host, and shown
        raise UsageError("An @ in the password of the storage's URL must be written %40.")
    return parsed


def _use_wal(url: URL, arguments: dict[str, Any]) -> None:
    # The mode is stored in the file, so it is set once, before Optuna's engine opens it.
    engine = create_engine(url, **arguments)

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")

    with engine.connect():
        pass
    engine.dispose()


def migrations() -> Config:
    """Alembic's configuration of the migrations of axsearch's tables."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def schema_version(connection: Connection) -> str | None:
    """The version of axsearch's tables in a database; None if there are none."""
    return recorded_version(connection, VERSION_TABLE)


def _migrate(engine: Engine, shown: str) -> None:
    with engine.connect() as connection:
        if schema_version(connection) == newest_version():
            return
    from alembic import command
    from alembic.script import ScriptDirectory

    config = migrations()
    script = ScriptDirectory.from_config(config)
    with _migrating, engine.begin() as connection:
        # One process changes the tables, in one transaction if the database can; others wait.
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        else:
            connection.execute(text("SELECT GET_LOCK('axsearch', 600)"))
        version = schema_version(connection)
        if version not in (None, *(one.revision for one in script.walk_revisions())):
            raise UsageError(
                f"The database {shown} was written by a newer axsearch; update axsearch to open it."
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if engine.dialect.name in ("mysql", "mariadb"):
            connection.execute(text("SELECT RELEASE_LOCK('axsearch')"))
