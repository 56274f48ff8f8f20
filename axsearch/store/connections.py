"""Engines whose connections wait for no server for ever, and write to no file that is only read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import URL, CreateEnginePlugin

from axsearch.store import mysql, postgresql, sqlite
from axsearch.store.limits import USUAL, Limits

PLUGIN = "axsearch"


@dataclass(frozen=True)
class Options:
    """How an engine connects.

    A storage that is pickled holds one, so that this module, which tells SQLAlchemy of
    :class:`Connecting`, is imported before it makes its engine again.
    """

    read_only: bool
    limits: Limits


def engine_arguments(*, read_only: bool = False, limits: Limits | None = None) -> dict[str, Any]:
    """Arguments of ``create_engine``, and of Optuna's storage for its own.

    Args:
        read_only: a SQLite file is only read, and nothing is written beside it.
        limits: of time, the usual ones if None.
    """
    return {"plugins": [PLUGIN], "ax_options": Options(read_only, limits or USUAL)}


class Connecting(CreateEnginePlugin):
    """Makes an engine's connections; what the user gives in the URL comes before what is here."""

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        self.url = url
        self.options: Options = kwargs.pop("ax_options")
        if url.get_backend_name() != "sqlite":
            kwargs.setdefault("pool_pre_ping", True)

    def update_url(self, url: URL) -> URL:
        """Called by SQLAlchemy."""
        return url

    def engine_created(self, engine: Engine) -> None:
        """Called by SQLAlchemy."""
        event.listen(engine, "do_connect", self._connect)

    def _connect(self, dialect: Any, _: Any, given: list[Any], named: dict[str, Any]) -> Any:
        kind = self.url.get_backend_name()
        if kind != "sqlite":
            module = postgresql if kind == "postgresql" else mysql
            return module.connect(dialect, given, named, self.options.limits)
        named.setdefault("timeout", self.options.limits.lock)
        # None: as SQLAlchemy would
        return sqlite.connect_read_only(self.url, **named) if self.options.read_only else None


plugins.register(PLUGIN, __name__, Connecting.__name__)
