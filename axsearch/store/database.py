"""Open a database: Optuna's storage and axsearch's tables behind one engine."""

from __future__ import annotations

import logging
import math
import os
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import tenacity
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from axsearch.errors import UsageError, cause
from axsearch.store.access import VERSION_TABLE, check_owner, may_write
from axsearch.store.connections import engine_arguments
from axsearch.store.limits import MIGRATION, Limits
from axsearch.store.outages import at_once
from axsearch.store.schema_version import newest_version, recorded_version
from axsearch.store.sqlite import file_of, journal_unread, only_readable, use_wal
from axsearch.store.urls import holds_secrets, read_url, shown_url, without_secrets
from axsearch.store.work_storage import WorkStorage

if TYPE_CHECKING:
    from alembic.config import Config

GRACE_PERIOD = 120.0
"""Seconds without a heartbeat after which a worker counts as dead."""

GRACE_VARIABLE = "AXSEARCH_GRACE_PERIOD"

STORAGE_VARIABLE = "AXSEARCH_STORAGE"
"""The environment variable that commands read the URL from."""

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
        """The URL, without what may be a secret."""
        return shown_url(self.engine.url)

    @property
    def in_command(self) -> str:
        """The word for it in a command for a shell: one with secrets is named by the variable."""
        return f'"${STORAGE_VARIABLE}"' if holds_secrets(self.engine.url) else shlex.quote(self.url)

    def check_writable(self) -> None:
        """Raises UsageError where the database can only be read."""
        with self.engine.connect() as connection:
            _check_writable(connection, self.url, newest_version())

    def close(self) -> None:
        """Write pending data of trials that did not end, and close the connections."""
        with suppress(optuna.exceptions.StorageInternalError), at_once():
            self.storage.flush()
        self.storage.remove_session()
        self.engine.dispose()


def open_database(storage: str, *, create: bool = False) -> Database:
    """Open the database of a storage URL, and upgrade axsearch's tables if they are older.

    SQLite runs in WAL mode. With ``create``, a SQLite file that does not exist is created, and a
    database that can only be read is refused; without, one that can only be read is opened for
    reading. Raises UsageError if it cannot be opened, or belongs to another program, which is then
    left as it is; secrets in a URL are never shown.
    """
    url, grace = _checked(storage, create), grace_period()
    shown = shown_url(url)
    file = url.get_backend_name() == "sqlite"
    read_only = file and only_readable(url)
    version = None
    if not file or file_of(url).exists():
        with _engine(url, read_only=True) as engine, engine.connect() as connection:
            check_owner(connection, shown)
            version = schema_version(connection)
            if create or version != newest_version():
                _check_writable(connection, shown, version)
    if file and not read_only:
        with _engine(url) as engine, engine.connect() as connection:
            use_wal(connection)
    database = None
    try:
        with _opening(url):
            database = Database(_storage(url, engine_arguments(read_only=read_only), grace))
        if version != newest_version():
            _migrate(url)
    except UsageError:
        if database is not None:
            database.close()
        raise
    return database


@contextmanager
def peek(storage: str) -> Iterator[Engine]:
    """An engine on a database as it is, without changing anything.

    Raises UsageError like :func:`open_database`.
    """
    with _engine(_checked(storage, create=False), read_only=True) as engine:
        yield engine


def check_database(storage: str) -> None:
    """Raises UsageError if a search could not create or use it; changes nothing."""
    grace_period()
    url = _checked(storage, create=True)
    if url.get_backend_name() == "sqlite" and not file_of(url).exists():
        return
    with _engine(url, read_only=True) as engine, engine.connect() as connection:
        check_owner(connection, shown_url(url))
        _check_writable(connection, shown_url(url), schema_version(connection))


@contextmanager
def _engine(url: URL, *, read_only: bool = False, limits: Limits | None = None) -> Iterator[Engine]:
    with _opening(url):
        engine = create_engine(url, **engine_arguments(read_only=read_only, limits=limits))
        try:
            yield engine
        finally:
            engine.dispose()


@contextmanager
def _opening(url: URL) -> Iterator[None]:
    """Raises UsageError in place of what the database raises."""
    try:
        yield
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        reason = without_secrets(cause(getattr(error, "orig", None) or error))
        if url.get_backend_name() == "sqlite" and only_readable(url) and journal_unread(url):
            reason += "; copy it with its -wal file to where it can be written, and use the copy"
        raise UsageError(f"The database {shown_url(url)} cannot be opened: {reason}.") from error


def _checked(storage: str, create: bool) -> URL:
    url = read_url(storage)
    if url.get_backend_name() != "sqlite":
        return url
    path = file_of(url)
    if not create and not path.is_file():
        raise UsageError(f"The database {path} does not exist; run `axsearch search` first.")
    if not path.parent.is_dir():
        absolute = Path("/") / path
        hint = (
            f" (an absolute path is written with four slashes: sqlite:///{absolute})"
            if absolute.parent.is_dir()
            else ""
        )
        raise UsageError(f"The folder {path.parent} of the database does not exist{hint}.")
    return url


def _check_writable(connection: Connection, shown: str, version: str | None) -> None:
    """Raises UsageError where a database can only be read; ``version`` is that of its tables."""
    if may_write(connection):
        return
    if version in (None, newest_version()):
        raise UsageError(
            f"The database {shown} can only be read here; use one that can be written to, such as "
            "a copy of it."
        )
    _check_known(version, shown)
    raise UsageError(
        f"The database {shown} has the tables of an older axsearch, and can only be read here, so "
        "that they cannot be brought up to date; use a copy that can be written to."
    )


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


def migrations() -> Config:
    """Alembic's configuration of the migrations of axsearch's tables."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def schema_version(connection: Connection) -> str | None:
    """The version of axsearch's tables in a database; None if there are none."""
    return recorded_version(connection, VERSION_TABLE)


def _check_known(version: str | None, shown: str) -> None:
    from alembic.script import ScriptDirectory

    known = (one.revision for one in ScriptDirectory.from_config(migrations()).walk_revisions())
    if version not in (None, *known):
        raise UsageError(
            f"The database {shown} was written by a newer axsearch; update axsearch to open it."
        )


def _migrate(url: URL) -> None:
    """Bring axsearch's tables up to date, however long that takes."""
    from alembic import command

    with _engine(url, limits=MIGRATION) as engine, _migrating, engine.begin() as connection:
        # One process changes the tables, in one transaction if the database can; others wait.
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        else:
            connection.execute(text("SELECT GET_LOCK('axsearch', 600)"))
        _check_known(schema_version(connection), shown_url(url))
        config = migrations()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if engine.dialect.name in ("mysql", "mariadb"):
            connection.execute(text("SELECT RELEASE_LOCK('axsearch')"))
