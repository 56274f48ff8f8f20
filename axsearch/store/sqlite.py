"""SQLite files: where one lies, whether it can be written, and how it is opened where it cannot."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from sqlalchemy.engine import URL

from axsearch.errors import UsageError


def file_of(url: URL) -> Path:
    """The path of a SQLite URL's file; raises UsageError for one in memory."""
    name = str(url.database or "")
    if name.startswith("file:"):
        name = unquote(name.removeprefix("file:"))
        name = "/" + name.lstrip("/") if name.startswith("///") else name
    if name in ("", ":memory:") or url.query.get("mode") == "memory":
        raise UsageError("A database in memory is lost at the end; name a file.")
    return Path(name)


def only_readable(url: URL) -> bool:
    """Whether the file of a URL can be read, but not written: on a read-only disk, for example."""
    if str(url.database).startswith("file:") and (
        url.query.get("mode") == "ro" or url.query.get("immutable") in ("1", "true")
    ):
        return True
    path = file_of(url).resolve()
    if not path.exists():
        return False
    if not os.access(path, os.W_OK):
        return True
    # Beside the file SQLite writes a journal.
    return not os.access(path.parent, os.W_OK) and not all(
        os.access(journal, os.W_OK) for journal in (_beside(path, "-wal"), _beside(path, "-shm"))
    )


def connect_read_only(url: URL, **given: Any) -> sqlite3.Connection:
    """A connection that changes neither the file nor its journal; ``given`` as for sqlite3.connect.

    What is only in the journal yet is seen too.
    """
    path = file_of(url).resolve()  # SQLite keeps the journal beside the file, not beside a link
    wal = _beside(path, "-wal")
    used = _filled(wal) or _filled(_beside(path, "-journal"))
    used = used or (wal.exists() and _beside(path, "-shm").exists())  # by another process, now
    # Beside a file that is not said to be immutable SQLite would make a new journal.
    uri = f"file:{quote(str(path))}?{'mode=ro' if used else 'immutable=1'}"
    connection: sqlite3.Connection = sqlite3.connect(uri, **{**given, "uri": True})
    return connection


def journal_unread(url: URL) -> bool:
    """Whether there is a journal that SQLite cannot read without writing beside it."""
    path = file_of(url).resolve()
    return _beside(path, "-wal").exists() and not _beside(path, "-shm").exists()


def use_wal(connection: Any) -> None:
    """Let readers and a writer work at the same time; the mode is stored in the file."""
    connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def _filled(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
