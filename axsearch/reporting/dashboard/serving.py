"""Serving Optuna Dashboard: the web server, and the style that it adds to the pages."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from ipaddress import ip_address
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from optuna_dashboard import wsgi
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.task import ThreadedTaskDispatcher

from axsearch.errors import UsageError, cause
from axsearch.reporting.dashboard.guard import Guard
from axsearch.reporting.dashboard.limits import Server
from axsearch.reporting.dashboard.login import BODY_LIMIT, Login, check_password
from axsearch.store.artifacts import ArtifactStore
from axsearch.store.database import open_database

LOOPBACK = ("127.0.0.1", "localhost", "::1")

LARGEST_BODY = 2**20
"""Bytes that a request may have after the login: an artifact that is uploaded on the page."""

SERVER = {
    "threads": 4,
    "connection_limit": 500,
    "asyncore_use_poll": True,  # select() would serve fewer
    "channel_timeout": 20,  # seconds that an idle connection is kept
    "cleanup_interval": 5,
    "max_request_header_size": 2**15,
    "inbuf_overflow": 2**21,  # more than a request may have: none is written to the disk
    "ident": None,  # no Server header
    "log_socket_errors": False,
}

STYLE = b"<style>main p{white-space:normal!important;overflow-wrap:anywhere}</style>"
"""The dashboard breaks no lines of attributes: one long value makes a trial's page, with its note,
six thousand pixels wide."""


def serve(
    storage: str,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    password: str | None = None,
    proxy: str | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve Optuna Dashboard on a database until interrupted.

    It can delete studies, so without a ``password`` it is served on this machine's loopback only.
    A password is asked for on every host, and goes over plain HTTP. Wrong ones and connections are
    limited for each address; ``proxy`` is that of a reverse proxy in front, whose word is taken for
    whom it speaks for. ``on_ready`` is called with the address once the port is open; port 0 picks
    any free one. Raises UsageError for another host without a password, one that is not 8 to 256
    printable characters, a proxy that is no IP address, a port that is taken or a database that
    cannot be opened.
    """
    if password is not None:
        check_password(password)
    elif host not in LOOPBACK:
        raise UsageError(
            f"Optuna Dashboard can delete studies, so listening on {host} needs a `password`;"
            " the command line also takes it from the variable AXSEARCH_DASHBOARD_PASSWORD."
        )
    settings = SERVER | ({} if proxy is None else _trusting(proxy))
    with closing(open_database(storage)) as database:
        app: WSGIApplication = wsgi(database.storage, artifact_store=ArtifactStore(database.engine))
        app = _Styled(app)
        login = None if password is None else Login(app, password)
        app = Guard(login or app, loopback_only=login is None)

        def most(headers: Mapping[str, str]) -> int:
            inside = login is None or login.session(headers.get("COOKIE", "")) is not None
            return LARGEST_BODY if inside else BODY_LIMIT

        # It logs each request that it cannot read. The dashboard logs its own errors.
        logging.getLogger("waitress").setLevel(logging.CRITICAL)
        channels: dict[int, Any] = {}
        server = _server(app, most, _listen(host, port), channels, settings)
        try:
            with suppress(KeyboardInterrupt):
                if on_ready is not None:
                    shown = f"[{host}]" if ":" in host else host
                    on_ready(f"http://{shown}:{server.effective_port}/dashboard/")
                server.run()
        finally:
            server.task_dispatcher.shutdown(timeout=0)  # for an end before it ran
            wasyncore.close_all(channels)


def _server(
    app: WSGIApplication,
    most: Callable[[Mapping[str, str]], int],
    sock: socket.socket,
    channels: dict[int, Any],
    settings: Mapping[str, Any],
) -> Server:
    # As waitress.create_server does it for a socket.
    adjustments = Adjustments(sockets=[sock], **settings)
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(adjustments.threads)
    return Server(
        app,
        channels,
        True,
        sock,
        dispatcher=dispatcher,
        adj=adjustments,
        sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
        bind_socket=False,
        most=most,
    )


def _trusting(proxy: str) -> dict[str, Any]:
    """The settings by which a proxy's word is taken."""
    try:
        address = str(ip_address(proxy))
    except ValueError:
        raise UsageError(
            f"`proxy` must be the IP address that the proxy connects from, such as 127.0.0.1, "
            f"not {proxy!r}."
        ) from None
    return {
        "trusted_proxy": address,
        "trusted_proxy_count": 1,
        "trusted_proxy_headers": {"x-forwarded-for"},
    }


class _Styled:
    """WSGI middleware that adds :data:`STYLE` to pages."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        told: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            if dict(headers).get("Content-Type", "").startswith("text/html"):
                told.append((status, headers))
                return None
            return start_response(status, headers, *rest)

        body = self._app(environ, start)
        if not told:
            return body
        page = b"".join(body).replace(b"</head>", STYLE + b"</head>")
        status, headers = told[0]
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start_response(status, [*kept, ("Content-Length", str(len(page)))])
        return [page]


def _listen(host: str, port: int) -> socket.socket:
    # Waitress would open one port for each address of a host: of localhost two, which differ for
    # port 0. Here it is one, of IPv4 if there is one.
    try:
        if not 0 <= port <= 65535:
            raise ValueError("it must be 0 to 65535")
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        return socket.create_server((address[0], port), family=family)
    except (OSError, ValueError) as error:
        raise UsageError(f"Port {port} on {host} cannot be used: {cause(error)}.") from None
