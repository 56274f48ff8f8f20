"""Storage URLs: what people write is read, or refused in a sentence; their secrets are not shown.

A URL may hold a password, or a token as the user's name or in an option that nobody here knows. So
of a URL only driver, host, port, database and the options in :data:`SHOWN` are ever shown, and what
a driver says about a connection goes through :func:`without_secrets`.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from axsearch.errors import UsageError, cause
from axsearch.progress import console

FORMS = "sqlite:///studies.db or postgresql://user@host/studies"

SUFFIXES = (".db", ".db3", ".sqlite", ".sqlite3")
"""Names of files that end so are SQLite files, whether they exist or not."""

SQLITE = re.compile(r"(?P<driver>sqlite(?:\+\w+)?):(?P<slashes>/{0,2})(?P<rest>[^/].*)", re.DOTALL)
"""A SQLite URL without the three slashes that SQLAlchemy wants before a path."""

KINDS = ("sqlite", "postgresql", "mysql", "mariadb")

EXTRAS = {"postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}
"""The extra of axsearch that installs a driver, by the kind of database."""

PACKAGES = {"mysqldb": "mysqlclient", "psycopg2": "psycopg2-binary", "psycopg": "psycopg[binary]"}
"""Packages of drivers whose names differ."""

SHOWN = frozenset({
    "application_name", "charset", "connect_timeout", "dbname", "host", "keepalives",
    "keepalives_count", "keepalives_idle", "keepalives_interval", "port", "read_timeout",
    "sslmode", "target_session_attrs", "tcp_user_timeout", "timeout", "unix_socket",
    "write_timeout",
})  # fmt: skip
"""Options of a URL whose values are shown."""

HIDDEN = "***"

_secrets: set[str] = set()  # of all URLs that this process has read
_users: set[str] = set()


def read_url(storage: str) -> URL:
    """The URL of a storage as people write it.

    ``postgres://`` is PostgreSQL, a bare file name or ``sqlite://`` with two slashes a SQLite file.
    Drivers that are not named are those of the extras. Raises UsageError for what is not a URL of
    SQLite, PostgreSQL, MySQL or MariaDB, or whose driver is not installed.
    """
    try:
        parsed = make_url(_completed(storage.strip()))
    except (ArgumentError, ValueError):
        raise UsageError(f"The storage is not a database URL such as {FORMS}.") from None
    parsed = parsed.set(drivername=_driver(parsed.drivername))
    _remember(parsed)
    server = parsed.get_backend_name() != "sqlite"
    if "@" in (parsed.host or "") or (server and "@" in (parsed.database or "")):
        # Else the end of a password is read as a host, and shown.
        raise UsageError(
            "In the user name and the password of the storage's URL, an @ must be written %40 and "
            "a / %2F."
        )
    _check_driver(parsed)
    return parsed


def shown_url(url: URL) -> str:
    """A URL without what may be a secret."""
    known = {name: value for name, value in url.query.items() if name in SHOWN}
    shown = URL.create(
        url.drivername, host=url.host, port=url.port, database=url.database, query=known
    ).render_as_string(hide_password=False)
    if url.username is None and url.password is None:
        return shown
    return shown.replace("://", f"://{HIDDEN}@", 1)


def holds_secrets(url: URL) -> bool:
    """Whether :func:`shown_url` leaves something out."""
    return bool(url.username or url.password or any(name not in SHOWN for name in url.query))


def without_secrets(text: str) -> str:
    """A text, such as a driver's message, without the secrets of the URLs that were read."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    for user in _users:
        text = re.sub(rf"""(["'`]){re.escape(user)}\1""", rf"\1{HIDDEN}\1", text)
    return text


def _completed(storage: str) -> str:
    """A storage with the scheme and the slashes that SQLAlchemy wants."""
    if short := SQLITE.fullmatch(storage):
        driver, slashes, rest = short["driver"], short["slashes"], short["rest"]
        if len(slashes) == 1 or "@" in rest:
            raise UsageError(
                "A SQLite file is written sqlite:///studies.db, with three slashes, and with four "
                "where its path begins at the root: sqlite:////home/me/studies.db."
            )
        _say_once(f"{storage} is read as {driver}:///{rest}.")
        return f"{driver}:///{rest}"
    if "://" in storage or storage.startswith("sqlite:") or "@" in storage:
        return storage
    file = Path(storage)
    if file.suffix.lower() in SUFFIXES or file.is_file():
        return URL.create("sqlite", database=storage).render_as_string()
    return storage


_said: set[str] = set()


def _say_once(sentence: str) -> None:
    if sentence not in _said:  # commands open a database more than once
        _said.add(sentence)
        console.print(sentence, style="dim", markup=False)


def _driver(name: str) -> str:
    """A driver's full name: people, platforms and libpq write postgres://."""
    kind, plus, driver = name.lower().partition("+")
    kind = "postgresql" if kind == "postgres" else kind
    if not plus and kind == "postgresql":
        driver = "psycopg"
    elif not plus and kind in ("mysql", "mariadb"):
        others = find_spec("pymysql") is None and find_spec("MySQLdb") is not None
        driver = "mysqldb" if others else "pymysql"
    return f"{kind}+{driver}" if driver else kind


def _check_driver(url: URL) -> None:
    kind, driver = url.get_backend_name(), url.drivername.partition("+")[2]
    if kind not in KINDS:
        raise UsageError(
            f"Studies are kept in SQLite, PostgreSQL or MariaDB, not in {kind}: the storage is a "
            f"URL such as {FORMS}."
        )
    try:
        dialect = url.get_dialect()
        if dialect.is_async:
            raise UsageError(
                f"The driver {driver} is for asyncio: write {kind}:// in the storage's URL."
            )
        dialect.import_dbapi()
        dialect().create_connect_args(url)
    except NoSuchModuleError:
        raise UsageError(f"There is no driver {driver!r} for {kind}: write {kind}://.") from None
    except ImportError as error:
        raise UsageError(_how_to_install(kind, driver, error)) from None
    except (ArgumentError, ValueError) as error:
        raise UsageError(
            f"An option of the storage's URL cannot be read: {without_secrets(cause(error))}."
        ) from None


def _how_to_install(kind: str, driver: str, error: ImportError) -> str:
    package = PACKAGES.get(driver, driver)
    ours = {"postgresql": "psycopg"}.get(kind, "pymysql")
    install = f"`pip install 'axsearch[{EXTRAS[kind]}]'`" if kind in EXTRAS else ""
    missing = f"The driver {driver} of the storage's URL is not installed ({cause(error)}): "
    if driver == ours:
        return f"{missing}{install} does it."
    if not install:
        return f"{missing}write sqlite:///."
    return (
        f"{missing}`pip install {package}`, or write {kind}:// in place of "
        f"{kind}+{driver}:// and {install}."
    )


def _remember(url: URL) -> None:
    hidden = [str(url.password)] if url.password else []
    for name, value in url.query.items():
        if name not in SHOWN:
            hidden += [value] if isinstance(value, str) else value
    _secrets.update(form for one in hidden if one for form in (one, quote(one, safe="")))
    if url.username and url.username != url.database:
        _users.add(url.username)
