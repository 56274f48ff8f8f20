from __future__ import annotations

import pytest

from axsearch.reporting.dashboard.guard import SECURITY_HEADERS, Guard
from tests.wsgi_client import App, send

METHODS = ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8080", "localhost", "LocalHost:9", "[::1]", "[::1]:65535"],
)
def test_loopback_is_reached_under_its_names(host: str) -> None:
    assert send(Guard(App(), loopback_only=True), HTTP_HOST=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "evil.example/localhost",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "127.0.0.1:80, evil.example",
        "127a0b0c1",
        "127.0.0.1:",
        "127.0.0.1\n",
        "::1",
        "0.0.0.0:8080",
    ],
)
def test_loopback_is_not_reached_under_another_name(host: str) -> None:
    app = App()
    for method in ("GET", "HEAD", "POST"):
        assert send(Guard(app, loopback_only=True), method=method, HTTP_HOST=host).status == 403
    assert app.reached == 0


def test_behind_a_password_any_host_will_do() -> None:
    assert send(Guard(App(), loopback_only=False), HTTP_HOST="gpu.example:8080").status == 200


@pytest.mark.parametrize("loopback_only", [True, False])
@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "http://",
        "http://evil.example",
        "http://localhost:8081",
        "https://localhost",
        "http://localhost:8080.evil.example",
        "http://evil.example@localhost:8080",
        "file://localhost:8080",
        "localhost:8080",
    ],
)
def test_pages_of_another_site_change_nothing(loopback_only: bool, origin: str) -> None:
    app = App()
    guard = Guard(app, loopback_only=loopback_only)
    for method in METHODS:
        reply = send(guard, method=method, HTTP_HOST="localhost:8080", HTTP_ORIGIN=origin)
        assert reply.status == 403
    assert app.reached == 0


def test_an_origin_is_not_compared_to_a_host_that_is_not_there() -> None:
    guard = Guard(App(), loopback_only=False)
    for origin in ("null", "http://", "http://:80"):
        assert send(guard, method="POST", HTTP_HOST="", HTTP_ORIGIN=origin).status == 403


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8080", "http://localhost:8080"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("studies.example", "https://studies.example"),  # TLS ends at a proxy
        ("studies.example:443", "https://studies.example"),
        ("Studies.example", "http://studies.example:80"),
    ],
)
def test_its_own_pages_change_things(host: str, origin: str) -> None:
    guard = Guard(App(), loopback_only=False)
    for method in METHODS:
        assert send(guard, method=method, HTTP_HOST=host, HTTP_ORIGIN=origin).status == 200


def test_what_is_no_browser_sends_no_origin() -> None:
    guard = Guard(App(), loopback_only=True)
    assert send(guard, method="POST", HTTP_HOST="localhost").status == 200


def test_reading_is_left_to_what_browsers_allow() -> None:
    guard = Guard(App(), loopback_only=True)
    assert send(guard, HTTP_HOST="localhost", HTTP_ORIGIN="http://evil.example").status == 200


def test_every_answer_has_the_security_headers() -> None:
    guard = Guard(App(("x-frame-options", "ALLOWALL"), ("X-Other", "1")), loopback_only=True)
    passed = send(guard, HTTP_HOST="localhost")
    other_host = send(guard, HTTP_HOST="evil.example")
    other_origin = send(guard, "/", "POST", HTTP_HOST="localhost", HTTP_ORIGIN="http://a.example")
    assert [passed.status, other_host.status, other_origin.status] == [200, 403, 403]
    for reply in (passed, other_host, other_origin):
        assert set(SECURITY_HEADERS) <= set(reply.headers.items())
    assert passed.headers["X-Other"] == "1"
    assert "x-frame-options" not in passed.headers
    assert dict(SECURITY_HEADERS) == {
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
    }


@pytest.mark.parametrize("path", ["/artifacts/1/2/0a", "/artifacts/1/0a"])
def test_artifacts_are_stored_and_not_shown_as_pages(path: str) -> None:
    sent = (("content-disposition", "inline"), ("Access-Control-Allow-Origin", "*"))
    headers = send(Guard(App(*sent), loopback_only=True), path, HTTP_HOST="localhost").headers
    assert headers["Content-Disposition"] == "attachment"
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "content-disposition" not in headers
    assert "Access-Control-Allow-Origin" not in headers


def test_nothing_is_opened_to_other_sites() -> None:
    app = App(("access-control-allow-origin", "*"))
    headers = send(Guard(app, loopback_only=True), HTTP_HOST="localhost").headers
    assert "access-control-allow-origin" not in {name.lower() for name in headers}
    assert "Content-Disposition" not in headers


def test_a_refusal_names_what_a_proxy_needs() -> None:
    other_name = send(Guard(App(), loopback_only=True), HTTP_HOST="studies.example")
    assert "password" in other_name.text
    guard = Guard(App(), loopback_only=False)
    behind = {"HTTP_HOST": "127.0.0.1:8080", "HTTP_ORIGIN": "https://studies.example"}
    assert "Host header" in send(guard, method="POST", **behind).text
