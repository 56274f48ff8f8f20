"""How long a connection waits for a database, so that none waits for ever."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Seconds. Those that a URL, or the server's own settings, choose otherwise are not changed.

    Attributes:
        connect: to reach the server.
        lock: to wait for a lock; whoever needs it tries again. While SQLite waits, no signal is
            seen.
        statement: a statement may take.
        idle: a transaction may be idle. Its session is then ended by the server, so that a worker
            that was stopped, or whose machine was cut off, does not hold locks for ever.
        more: that the server has beyond ``statement`` to say so.
    """

    connect: float = 10
    lock: float = 10
    statement: float = 45
    idle: float = 60
    more: float = 5

    @property
    def silence(self) -> float:
        """Seconds of silence after which a server is taken to be away."""
        return self.statement + self.more


USUAL = Limits()

MIGRATION = Limits(lock=600, statement=600)
"""While tables are changed, of which there may be large ones, and while others change them."""
