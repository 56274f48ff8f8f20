"""Ask for a password before a web app."""

from __future__ import annotations

import hmac
import math
import os
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from axsearch.errors import UsageError
from axsearch.reporting.dashboard.guard import Headers, answer, with_headers
from axsearch.reporting.dashboard.limits import Failures

SHORTEST, LONGEST = 8, 256  # characters of a password
SESSION = 12 * 3600  # seconds
BODY_LIMIT = 4096  # bytes; the longest password, all of it escaped, fits

_NO_STORE = ("Cache-Control", "no-store")
_PAGE_HEADERS = (
    _NO_STORE,
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'",
    ),
)
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>axsearch</title>
<style>
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 20rem; margin: 15vh auto; padding: 0 1rem; }
input, button { font: inherit; box-sizing: border-box; width: 100%; padding: 0.5rem; }
button { margin-top: 1rem; }
#message:empty { display: none; }
</style>
</head>
<body>
<main>
<h1>axsearch</h1>
CONTENT
</main>
</body>
</html>
"""
_FORM = """\
<form method="post" action="/login">
<p id="message" role="alert">MESSAGE</p>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password"
 aria-describedby="message" required autofocus>
<button>Log in</button>
</form>"""
_LOGGED_IN = """\
<p>You are logged in.</p>
<p><a href="HOME">Open the dashboard</a></p>
<form method="post" action="/logout"><button>Log out</button></form>"""


class Login:
    """WSGI middleware that passes requests to an app only within a session.

    ``/login`` asks for the password and begins a session of 12 hours, ``/logout`` ends it. Without
    one, ``home`` and the pages below it redirect to ``/login``; all others return 401. After 5
    wrong passwords in a row from one address, none from there is looked at until a delay has
    passed, which doubles with each, from 1 s to 60 s. ``clock`` returns seconds.
    """

    def __init__(
        self,
        app: WSGIApplication,
        password: str,
        *,
        home: str = "/dashboard/",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._home = home
        self._logged_in = _LOGGED_IN.replace("HOME", home)
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._password = self._sign(password)  # the password itself is not kept
        # All ports of a host share their cookies: servers side by side need names of their own.
        self._cookie = f"axsearch_{secrets.token_hex(4)}"
        self._ended: set[str] = set()
        self._lock = threading.Lock()
        self._failures = Failures(clock)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or pass it on."""
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "").rstrip("/")
        reading = method in ("GET", "HEAD")
        if path == "/login" and method == "POST":
            return self._log_in(environ, start_response)
        session = self.session(environ.get("HTTP_COOKIE", ""))
        if path == "/login" and reading:
            content = _FORM.replace("MESSAGE", "") if session is None else self._logged_in
            return _page(environ, start_response, HTTPStatus.OK, content)
        if path == "/logout" and method == "POST":
            if session is not None:
                self._ended.add(session)
            return _redirect(environ, start_response, "/login", self._set_cookie("", 0))
        if session is None:
            if reading and (path == "" or f"{path}/".startswith(self._home)):
                return _redirect(environ, start_response, "/login")
            status = HTTPStatus.UNAUTHORIZED
            return answer(environ, start_response, status, "Log in first.", headers=[_NO_STORE])
        if path == "" and reading:  # the app's own redirect would not know of TLS before it
            return _redirect(environ, start_response, self._home)
        # A page that a browser keeps would be shown without asking for the password.
        if not path.startswith("/static/"):
            start_response = with_headers(start_response, [_NO_STORE])
        return self._app(environ, start_response)

    def _log_in(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def refuse(status: HTTPStatus, message: str, *headers: tuple[str, str]) -> list[bytes]:
            content = _FORM.replace("MESSAGE", message)
            return _page(environ, start_response, status, content, headers)

        given = _given_password(environ)
        if given is None:
            return refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The form is too large or cannot be read."
            )
        address = environ["REMOTE_ADDR"]
        with self._lock:
            remaining = self._failures.remaining(address)
            if remaining > 0:
                wait = math.ceil(remaining)
                return refuse(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    f"Too many wrong passwords. Try again in {wait} s.",
                    ("Retry-After", str(wait)),
                )
            if not hmac.compare_digest(self._sign(given), self._password):
                self._failures.wrong(address)
                return refuse(HTTPStatus.FORBIDDEN, "Wrong password.")
            self._failures.right(address)
        return _redirect(environ, start_response, self._home, self._new_cookie(environ))

    def _new_cookie(self, environ: WSGIEnvironment) -> tuple[str, str]:
        content = f"{int(self._clock()) + SESSION}.{secrets.token_hex(8)}"
        name, cookie = self._set_cookie(f"{content}.{self._sign(content)}", SESSION)
        # Where a proxy speaks TLS for the page, it is not sent without.
        secure = environ.get("HTTP_ORIGIN", "").startswith("https://")
        return name, cookie + "; Secure" * secure

    def _set_cookie(self, value: str, seconds: int) -> tuple[str, str]:
        attributes = f"Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict"
        return "Set-Cookie", f"{self._cookie}={value}; {attributes}"

    def session(self, cookies: str) -> str | None:
        """The token of the session that a request's cookies name; None if none is valid."""
        for part in cookies.split(";"):
            name, _, token = part.strip().partition("=")
            if name == self._cookie and token not in self._ended and self._holds(token):
                return token
        return None

    def _holds(self, token: str) -> bool:
        content, _, signature = token.rpartition(".")
        genuine = hmac.compare_digest(_bytes(signature), _bytes(self._sign(content)))
        return genuine and self._clock() < int(content.partition(".")[0])

    def _sign(self, text: str) -> str:
        return hmac.digest(self._key, _bytes(text), "sha256").hex()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _given_password(environ: WSGIEnvironment) -> str | None:
    """The password of a form, empty where there is none; None if the body is too large."""
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return None
    if not 0 <= length <= BODY_LIMIT:
        return None
    body: bytes = environ["wsgi.input"].read(length)
    return parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]


def _page(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    status: HTTPStatus,
    content: str,
    headers: Headers = (),
) -> list[bytes]:
    text = _PAGE.replace("CONTENT", content)
    headers = [*_PAGE_HEADERS, *headers]
    return answer(environ, start_response, status, text, subtype="html", headers=headers)


def _redirect(
    environ: WSGIEnvironment, start_response: StartResponse, path: str, *headers: tuple[str, str]
) -> list[bytes]:
    headers = (("Location", path), _NO_STORE, *headers)
    return answer(environ, start_response, HTTPStatus.SEE_OTHER, headers=headers)


def read_password(path: Path) -> str:
    """The first line of a file that only its owner may read.

    Raises UsageError for a file that others may read, that cannot be read or is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise UsageError(
                    f"The password file {path} is open to other users;"
                    f" run `chmod 600 {shlex.quote(str(path))}`."
                )
            return file.readline(LONGEST + 2).removesuffix("\n")
    except OSError as error:
        raise UsageError(f"The password file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"The password file {path} is not UTF-8 text.") from None


def check_password(password: str) -> None:
    """Raise UsageError for a password that is empty, short or cannot be typed."""
    if not (SHORTEST <= len(password) <= LONGEST and password.isprintable()):
        raise UsageError(
            f"The dashboard's password must be {SHORTEST} to {LONGEST} printable characters."
        )
