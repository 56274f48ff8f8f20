"""Keep pages of other sites from using a web app."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

Headers = Sequence[tuple[str, str]]

SECURITY_HEADERS = (
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
)
ARTIFACT_HEADERS = (
    ("Content-Disposition", "attachment"),
    ("Content-Security-Policy", "default-src 'none'; sandbox"),
)
"""Of what was uploaded: a page among it would run its scripts as if it were the dashboard's own."""

READERS = "Access-Control-Allow-Origin"
"""The header by which Optuna Dashboard lets the pages of all sites read artifacts."""

DEFAULT_PORTS = {"http": ":80", "https": ":443"}

_LOOPBACK_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?", re.IGNORECASE)


class Guard:
    """WSGI middleware that refuses what the pages of other sites make a browser send.

    A request that may change something is refused if its Origin is not the host that it is sent to.
    With ``loopback_only``, every request whose Host is not a name of this machine's loopback is
    refused too: under another name, a page elsewhere could read the responses (DNS rebinding). All
    responses get headers that tell browsers neither to frame the pages nor to guess content types,
    and artifacts those by which browsers store them instead of showing them as pages.
    """

    def __init__(self, app: WSGIApplication, *, loopback_only: bool) -> None:
        self._app = app
        self._loopback_only = loopback_only

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or pass it on."""
        is_artifact = environ.get("PATH_INFO", "").startswith("/artifacts/")
        added = (*SECURITY_HEADERS, *(ARTIFACT_HEADERS if is_artifact else ()))
        start = with_headers(start_response, added, without=(READERS,))
        forbidden = partial(answer, environ, start, HTTPStatus.FORBIDDEN)
        host = environ.get("HTTP_HOST", "")
        if self._loopback_only and not _LOOPBACK_HOST.fullmatch(host):
            return forbidden(
                "Open the dashboard under 127.0.0.1 or localhost. Under another name, as behind a "
                "proxy, it needs a password: axsearch dashboard --password-file FILE."
            )
        origin = environ.get("HTTP_ORIGIN")
        changes = environ["REQUEST_METHOD"] not in ("GET", "HEAD")
        if changes and origin is not None and not _is_same_host(origin, host):
            return forbidden(
                "This request comes from a page of another site, or through a proxy that does not "
                "pass on the Host header."
            )
        return self._app(environ, start)


def answer(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    status: HTTPStatus,
    text: str = "",
    *,
    subtype: str = "plain",
    headers: Headers = (),
) -> list[bytes]:
    """Respond with a text of the type ``text/<subtype>``; to HEAD with its headers only."""
    body = text.encode()
    described = [
        ("Content-Type", f"text/{subtype}; charset=utf-8"),
        ("Content-Length", str(len(body))),
        *headers,
    ]
    start_response(f"{status.value} {status.phrase}", described)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def with_headers(
    start_response: StartResponse, added: Headers, without: Sequence[str] = ()
) -> StartResponse:
    """A ``start_response`` that sends ``added`` in place of an app's headers of the same names.

    Those named in ``without`` are not sent.
    """
    names = {name.lower() for name in (*without, *(name for name, _ in added))}

    def start(
        status: str,
        headers: list[tuple[str, str]],
        exc_info: tuple[type[BaseException], BaseException, TracebackType] | Any = None,
        /,
    ) -> Any:
        kept = [(name, value) for name, value in headers if name.lower() not in names]
        return start_response(status, [*kept, *added], exc_info)

    return start


def _is_same_host(origin: str, host: str) -> bool:
    # The scheme is not compared: behind a proxy that adds TLS it is not the one seen here.
    scheme, _, place = origin.lower().partition("://")
    if scheme not in DEFAULT_PORTS:
        return False
    default = DEFAULT_PORTS[scheme]
    place = place.removesuffix(default)
    return place != "" and place == host.lower().removesuffix(default)
