"""Open a database: Optuna's storage and axsearch's tables behind one engine."""

from __future__ import annotations

import logging
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from axsearch.errors import UsageError, cause
from axsearch.store.trial_storage import TrialStorage

SQLITE_TIMEOUT = 60
HEARTBEAT = 30
GRACE_PERIOD = 120

optuna.logging.set_verbosity(optuna.logging.ERROR)  # failed trials are told by the run
logging.getLogger("alembic").setLevel(logging.WARNING)


class Database:
    """An open database: ``storage`` is Optuna's view of it, ``engine`` SQLAlchemy's."""

    def __init__(self, storage: TrialStorage) -> None:
        self.storage = storage
        self.engine: Engine = storage.engine

    @property
    def url(self) -> str:
        """Where it is, without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Write what is kept of trials that did not end, and give the connections back."""
        with suppress(optuna.exceptions.StorageInternalError):
            self.storage.flush()
        self.storage.remove_session()
        self.engine.dispose()


def open_database(url: str, *, create: bool = False) -> Database:
    """Open the database at a SQLAlchemy URL, bringing axsearch's tables up to date.

    SQLite runs in WAL mode and waits 60 s for a lock. With ``create`` a SQLite file that does
    not exist is made; otherwise it is an error. Raises UsageError where it cannot be opened; the
    password of a URL is never shown.
    """
    parsed = _parse(url)
    shown = parsed.render_as_string(hide_password=True)
    sqlite = parsed.get_backend_name() == "sqlite"
    if sqlite:
        if parsed.database in (None, "", ":memory:"):
            raise UsageError("A database in memory is lost at the end; name a file.")
        path = Path(str(parsed.database))
        if not create and not path.is_file():
            raise UsageError(f"The database {path} does not exist; run `axsearch search` first.")
        if not path.parent.is_dir():
            raise UsageError(f"The folder {path.parent} of the database does not exist.")
    arguments: dict[str, Any] = (
        {"connect_args": {"timeout": SQLITE_TIMEOUT}} if sqlite else {"pool_pre_ping": True}
    )
    database = None
    try:
        if sqlite:
            _use_wal(parsed, arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = TrialStorage(
                parsed.render_as_string(hide_password=False),
                engine_kwargs=arguments,
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE_PERIOD,
            )
        database = Database(storage)
        _migrate(database.engine)
    except (CommandError, SQLAlchemyError, ImportError, RuntimeError) as error:
        if database is not None:
            database.close()
        if isinstance(error, CommandError):
            raise UsageError(
                f"The database {shown} was written by a newer axsearch; update axsearch to open it."
            ) from None
        reason = cause(getattr(error, "orig", None) or error)
        raise UsageError(f"The database {shown} cannot be opened: {reason}.") from None
    return database


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
    return parsed


def _use_wal(url: URL, arguments: dict[str, Any]) -> None:
    # The mode is kept in the file: set once before Optuna's engine opens it.
    engine = create_engine(url, **arguments)

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")

    with engine.connect():
        pass
    engine.dispose()


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
