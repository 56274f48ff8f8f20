"""``axsearch dashboard``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from axsearch.cli import options

PASSWORD = "AXSEARCH_DASHBOARD_PASSWORD"


def dashboard(
    storage: options.Storage,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that is not loopback needs a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes any free one.")] = 8080,
    password_file: Annotated[
        Path | None,
        typer.Option(
            help="File, for its owner only, with the password in its first line; without it "
            f"the password is that of the environment variable {PASSWORD}, if there is one."
        ),
    ] = None,
) -> None:
    """Serve Optuna Dashboard on the studies of a database, until Ctrl-C.

    Who can open it can delete studies. It listens on this machine only; another --host needs a
    password, which is then asked for. The password and all else go over plain HTTP: on a network
    that you do not trust, put TLS before it (a reverse proxy that passes the Host header on) or
    use an SSH tunnel. The page /login logs out.

    \b
    Example:
      axsearch dashboard --storage sqlite:///studies.db
    """
    from axsearch.reporting.dashboard.login import read_password
    from axsearch.reporting.dashboard.serving import serve

    def say(address: str) -> None:
        print(f"Optuna Dashboard on {address} (Ctrl-C stops it)", file=sys.stderr, flush=True)

    password = os.environ.get(PASSWORD) if password_file is None else read_password(password_file)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve(storage, host, port, password=password, on_ready=say)
    finally:
        signal.signal(signal.SIGTERM, before)
