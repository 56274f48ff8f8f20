"""Requests to a WSGI app, each checked against the standard, without a server."""

from __future__ import annotations

from io import BytesIO
from typing import Any, NamedTuple
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


def send(
    app: WSGIApplication, path: str = "/", method: str = "GET", body: bytes = b"", **environ: str
) -> Reply:
    """Send a request; capitals such as HTTP_HOST="localhost" are put into its environ."""
    asked: WSGIEnvironment = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "REMOTE_ADDR": "192.0.2.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": BytesIO(body),
        **environ,
    }
    setup_testing_defaults(asked)
    told: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        told[:] = [status, headers]
        return lambda data: None

    answer = validator(app)(asked, start_response)
    try:
        text = b"".join(answer).decode()
    finally:
        answer.close()  # type: ignore[attr-defined]
    status, headers = told
    assert len({name.lower() for name, _ in headers}) == len(headers), headers
    return Reply(int(status.split()[0]), dict(headers), text)


class App:
    """Tells its path, and that it was reached."""

    def __init__(self, *headers: tuple[str, str]) -> None:
        self.reached = 0
        self._headers = headers

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        self.reached += 1
        start_response("200 OK", [("Content-Type", "text/plain"), *self._headers])
        return [environ["PATH_INFO"].encode()]
