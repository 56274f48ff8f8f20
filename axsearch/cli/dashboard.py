"""``axsearch dashboard``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from axsearch.cli import options


def dashboard(
    storage: options.Storage,
    host: Annotated[str, typer.Option(help="127.0.0.1 or localhost: there is no login.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
) -> None:
    """Serve Optuna Dashboard on the studies of a database, until Ctrl-C.

    Example: axsearch dashboard --storage sqlite:///studies.db
    """
    from axsearch.dashboard import serve

    def say(address: str) -> None:
        print(f"Optuna Dashboard on {address} (Ctrl-C stops it)", file=sys.stderr, flush=True)

    serve(storage, host, port, on_ready=say)
