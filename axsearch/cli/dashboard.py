"""``axsearch dashboard``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

from axsearch.options import Option
from axsearch.running.request import Storage

PASSWORD = "AXSEARCH_DASHBOARD_PASSWORD"


def dashboard(
    storage: Storage,
    host: Annotated[
        str, Option("Address to listen on; any other than loopback needs a password")
    ] = "127.0.0.1",
    port: Annotated[int, Option("Port to listen on; 0 picks a free one")] = 8080,
    password: Annotated[
        Path | None,
        Option(
            "File with the password in its first line, readable by its owner only",
            omitted=f"the password is taken from the environment variable {PASSWORD}, if set",
            flag="--password-file",
        ),
    ] = None,
    proxy: Annotated[
        str | None,
        Option(
            "IP address of a reverse proxy in front, whose X-Forwarded-For says who is there",
            omitted="no such header is believed",
        ),
    ] = None,
) -> None:
    """Serve Optuna Dashboard on the studies of a database, until Ctrl-C.

    Anyone who can open it can delete studies. It listens on this machine only; any other --host
    needs a password, which the login page asks for. Everything, the password too, is sent over
    plain HTTP: on a network that you do not trust, put TLS in front of it (a reverse proxy that
    passes on the Host header, named by --proxy) or use an SSH tunnel. The page /login also logs
    out.

    \b
    Example:
      axsearch dashboard --storage sqlite:///studies.db
    """
    from axsearch.reporting.dashboard.login import read_password
    from axsearch.reporting.dashboard.serving import serve

    def say(address: str) -> None:
        print(f"Optuna Dashboard on {address} (Ctrl-C stops it)", file=sys.stderr, flush=True)

    secret = os.environ.get(PASSWORD) if password is None else read_password(password)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve(storage, host, port, password=secret, proxy=proxy, on_ready=say)
    finally:
        signal.signal(signal.SIGTERM, before)
