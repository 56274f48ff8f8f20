from __future__ import annotations

import os
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axsearch.errors import UsageError
from axsearch.reporting.dashboard import limits
from axsearch.reporting.dashboard.login import (
    BODY_LIMIT,
    LONGEST,
    Login,
    check_password,
    read_password,
)
from tests.wsgi_client import App, Reply, send

PASSWORD = "correct hörse & battery=staple"
HOUR = 3600


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def login(app: App, clock: Clock) -> Login:
    return Login(app, PASSWORD, clock=clock)


def attempt(login: Login, password: str, **headers: str) -> Reply:
    return send(login, "/login", "POST", urlencode({"password": password}).encode(), **headers)


def cookie(login: Login) -> str:
    reply = attempt(login, PASSWORD)
    assert reply.status == 303
    return reply.headers["Set-Cookie"].split(";")[0]


# Without a session


@pytest.mark.parametrize("path", ["/", "", "/dashboard", "/dashboard/", "/dashboard/studies/1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_pages_lead_to_the_login(login: Login, app: App, path: str, method: str) -> None:
    reply = send(login, path, method)
    assert (reply.status, reply.headers["Location"]) == (303, "/login")
    assert reply.headers["Cache-Control"] == "no-store"
    assert app.reached == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/studies"),
        ("GET", "/static/bundle.js"),
        ("GET", "/csv/1"),
        ("GET", "/favicon.ico"),
        ("GET", "/dashboards"),
        ("GET", "/login/x"),
        ("GET", "/loginx"),
        ("GET", "/LOGIN"),
        ("GET", "/logout"),
        ("GET", "/login/../api/studies"),
        ("GET", "*"),
        ("POST", "/"),
        ("POST", "/dashboard"),
        ("POST", "/api/studies"),
        ("DELETE", "/api/studies/1"),
        ("PUT", "/login"),
        ("OPTIONS", "/login"),
    ],
)
def test_all_else_is_refused(login: Login, app: App, method: str, path: str) -> None:
    reply = send(login, path.replace("*", "/*"), method)
    assert reply.status == 401
    assert reply.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in reply.headers
    assert app.reached == 0


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, dict[str, str | None]] = {}
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = dict(attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_the_login_page_can_be_used_by_all(login: Login) -> None:
    reply = send(login, "/login")
    assert (reply.status, reply.headers["Cache-Control"]) == (200, "no-store")
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    page = Page(reply.text)
    assert "<title>axsearch</title>" in reply.text
    assert page.tags["html"]["lang"] == "en"
    assert page.tags["form"] == {"method": "post", "action": "/login"}
    field = page.tags["input"]
    assert field["id"] == page.tags["label"]["for"]
    assert (field["type"], field["name"]) == ("password", "password")
    assert "autofocus" in field
    assert "width=device-width" in str(page.tags["meta"]["content"])
    assert "color-scheme: light dark" in reply.text
    assert "http" not in reply.text  # nothing comes from elsewhere
    assert "script" not in page.tags


def test_head_of_the_login_page_has_no_body(login: Login) -> None:
    page, head = send(login, "/login"), send(login, "/login", "HEAD")
    assert (head.status, head.text) == (200, "")
    assert head.headers == page.headers


# The password


def test_the_right_password_begins_a_session(login: Login, app: App) -> None:
    reply = attempt(login, PASSWORD)
    assert (reply.status, reply.headers["Location"]) == (303, "/dashboard/")
    assert reply.headers["Cache-Control"] == "no-store"
    pair, *attributes = reply.headers["Set-Cookie"].split("; ")
    assert set(attributes) == {"Max-Age=43200", "Path=/", "HttpOnly", "SameSite=Strict"}
    assert send(login, "/api/studies", HTTP_COOKIE=pair) == (
        200,
        {"Content-Type": "text/plain", "Cache-Control": "no-store"},
        "/api/studies",
    )
    assert send(login, "/api/studies/1", "DELETE", HTTP_COOKIE=pair).status == 200
    assert app.reached == 2


def test_with_a_session_the_root_leads_to_the_dashboard(login: Login, app: App) -> None:
    reply = send(login, "/", HTTP_COOKIE=cookie(login))
    assert (reply.status, reply.headers["Location"]) == (303, "/dashboard/")
    assert app.reached == 0


def test_only_the_dashboard_s_own_files_are_kept_by_browsers(login: Login) -> None:
    session = cookie(login)
    for path, kept in (("/dashboard/", False), ("/csv/1", False), ("/static/bundle.js", True)):
        reply = send(login, path, HTTP_COOKIE=session)
        assert reply.status == 200
        assert ("Cache-Control" not in reply.headers) == kept


def test_where_to_go_is_not_the_request_s_to_say(login: Login) -> None:
    body = urlencode({"password": PASSWORD, "next": "//evil.example"}).encode()
    elsewhere = {"QUERY_STRING": "next=//evil.example", "HTTP_HOST": "evil.example"}
    for reply, place in (
        (send(login, "/login", "POST", body, **elsewhere), "/dashboard/"),
        (send(login, "//evil.example/..//", HTTP_COOKIE=cookie(login)), None),
        (send(login, "/dashboard//evil.example", **elsewhere), "/login"),
        (send(login, "/logout", "POST", **elsewhere), "/login"),
    ):
        assert reply.headers.get("Location") == place


@pytest.mark.parametrize(
    "wrong", ["", "x", PASSWORD[:-1], PASSWORD + " ", PASSWORD.upper(), PASSWORD + "\0"]
)
def test_a_wrong_password_is_told_on_the_page(login: Login, app: App, wrong: str) -> None:
    reply = attempt(login, wrong)
    assert (reply.status, reply.headers["Cache-Control"]) == (403, "no-store")
    assert "Wrong password." in Page(reply.text).texts
    assert "input" in Page(reply.text).tags
    assert "Set-Cookie" not in reply.headers
    assert app.reached == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"password",
        b"password=",
        b"&&&===;;;",
        b"%",
        b"password=%zz%",
        b"password=\xff\xfe",
        b"password=%ff%fe",
        b"\x00" * 100,
        b'{"password": "x"}',
        b"a=&" * 1300,
    ],
)
def test_a_malformed_form_is_a_wrong_password(login: Login, body: bytes) -> None:
    assert send(login, "/login", "POST", body).status == 403


def test_a_large_form_is_not_read(login: Login) -> None:
    field = b"password=" + quote_plus(PASSWORD).encode()
    just = field + b"&x=" + b"x" * (BODY_LIMIT - len(field) - 3)
    assert send(login, "/login", "POST", just).status == 303
    assert send(login, "/login", "POST", just + b"x").status == 413


@pytest.mark.parametrize("length", ["-1", "x", "4097", "1" * 5000])
def test_a_length_that_cannot_be_is_refused(login: Login, length: str) -> None:
    body = urlencode({"password": PASSWORD}).encode()
    environ = {"CONTENT_LENGTH": length}

    def unchecked(environ_, start_response):  # type: ignore[no-untyped-def]
        return login({**environ_, **environ}, start_response)

    assert send(unchecked, "/login", "POST", body).status == 413


def test_the_longest_password_fits_into_a_form() -> None:
    password = "\N{GRINNING FACE}" * LONGEST
    check_password(password)
    assert attempt(Login(App(), password), password).status == 303


def test_the_password_is_kept_nowhere(login: Login) -> None:
    attempt(login, PASSWORD)
    kept = repr(login) + repr(vars(login)) + send(login, "/login").text
    assert PASSWORD not in kept
    assert PASSWORD not in attempt(login, "x").text


# Many wrong passwords


def test_after_5_wrong_passwords_the_next_must_wait(login: Login, clock: Clock) -> None:
    assert [attempt(login, "x").status for _ in range(6)] == [403] * 5 + [429]
    refused = attempt(login, PASSWORD)  # or the answer would tell which password is right
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    assert "Too many wrong passwords. Try again in 1 s." in Page(refused.text).texts
    clock.now += 1
    assert attempt(login, PASSWORD).status == 303


def test_delays_double_up_to_a_minute(login: Login, clock: Clock) -> None:
    for _ in range(5):
        attempt(login, "x")
    delays = []
    for _ in range(10):
        delays.append(float(attempt(login, "x").headers["Retry-After"]))
        clock.now += delays[-1] - 0.01
        assert attempt(login, PASSWORD).status == 429
        clock.now += 0.01
        assert attempt(login, "x").status == 403
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_delays_never_end_in_an_error(login: Login, clock: Clock) -> None:
    for _ in range(3000):
        assert attempt(login, "x").status == 403
        clock.now += 60
    assert attempt(login, PASSWORD).status == 303


def test_what_is_refused_in_a_delay_does_not_lengthen_it(login: Login, clock: Clock) -> None:
    for _ in range(50):
        attempt(login, "x")
    clock.now += 1
    assert attempt(login, PASSWORD).status == 303


def test_the_right_password_ends_the_count(login: Login) -> None:
    for _ in range(3):
        assert [attempt(login, "x").status for _ in range(4)] == [403] * 4
        assert attempt(login, PASSWORD).status == 303


def test_the_right_password_ends_the_delays(login: Login, clock: Clock) -> None:
    for wait in ("1", "2"):
        while attempt(login, "x").status == 403:
            pass
        assert attempt(login, "x").headers["Retry-After"] == wait
        clock.now += 60
    assert attempt(login, PASSWORD).status == 303
    while attempt(login, "x").status == 403:
        pass
    assert attempt(login, "x").headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("stranger", "owner"),
    [
        ("192.0.2.9", "192.0.2.1"),
        ("2001:db8:0:1::1", "2001:db8:0:2::1"),
        ("::1", "127.0.0.1"),
        ("unknown", "127.0.0.1"),
    ],
)
def test_a_stranger_does_not_lock_the_owner_out(login: Login, stranger: str, owner: str) -> None:
    for _ in range(50):
        attempt(login, "x", REMOTE_ADDR=stranger)
    assert attempt(login, PASSWORD, REMOTE_ADDR=stranger).status == 429
    assert attempt(login, PASSWORD, REMOTE_ADDR=owner).status == 303
    assert attempt(login, PASSWORD, REMOTE_ADDR=stranger).status == 429


@pytest.mark.parametrize(
    "addresses",
    [
        ["2001:db8::1", "2001:db8::2", "2001:DB8:0:0:ffff::", "[2001:db8::3]", "2001:db8::4%eth0"],
        ["192.0.2.9", "::ffff:192.0.2.9", "[::ffff:c000:209]", "192.0.2.9", "::ffff:192.0.2.9"],
    ],
)
def test_addresses_that_one_machine_has_count_as_one(login: Login, addresses: list[str]) -> None:
    assert [attempt(login, "x", REMOTE_ADDR=one).status for one in addresses] == [403] * 5
    assert [attempt(login, "x", REMOTE_ADDR=one).status for one in addresses] == [429] * 5


def test_only_so_many_addresses_are_remembered(
    login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REMEMBERED", 3)
    for _ in range(5):
        attempt(login, "x", REMOTE_ADDR="192.0.2.0")
    for number in (1, 2):
        attempt(login, "x", REMOTE_ADDR=f"192.0.2.{number}")
    assert attempt(login, "x", REMOTE_ADDR="192.0.2.0").status == 429
    for number in range(3, 6):
        attempt(login, "x", REMOTE_ADDR=f"192.0.2.{number}")
    assert len(login._failures._seen) == 3
    assert attempt(login, PASSWORD, REMOTE_ADDR="192.0.2.0").status == 303


def test_sessions_go_on_while_passwords_must_wait(login: Login) -> None:
    session = cookie(login)
    for _ in range(6):
        attempt(login, "x")
    assert send(login, "/api/studies", HTTP_COOKIE=session).status == 200


# Sessions


def test_a_session_stays_within_tls_where_the_page_is_served_with_it(login: Login) -> None:
    plain = attempt(login, PASSWORD).headers["Set-Cookie"]
    behind_tls = attempt(login, PASSWORD, HTTP_ORIGIN="https://here.example")
    assert behind_tls.headers["Set-Cookie"].endswith("; Secure")
    assert "Secure" not in plain


def test_a_session_ends_after_12_hours(login: Login, clock: Clock) -> None:
    session = cookie(login)
    clock.now += 12 * HOUR - 1
    assert send(login, "/api/studies", HTTP_COOKIE=session).status == 200
    clock.now += 1
    assert send(login, "/api/studies", HTTP_COOKIE=session).status == 401


def test_logging_out_ends_the_session_everywhere_but_no_other(login: Login) -> None:
    first, second = cookie(login), cookie(login)
    reply = send(login, "/logout", "POST", HTTP_COOKIE=first)
    assert (reply.status, reply.headers["Location"]) == (303, "/login")
    name = first.partition("=")[0]
    assert reply.headers["Set-Cookie"].startswith(f"{name}=; Max-Age=0; Path=/;")
    assert send(login, "/api/studies", HTTP_COOKIE=first).status == 401
    assert send(login, "/api/studies", HTTP_COOKIE=second).status == 200


def test_with_a_session_the_login_page_offers_to_log_out(login: Login) -> None:
    reply = send(login, "/login", HTTP_COOKIE=cookie(login))
    assert (reply.status, reply.headers["Cache-Control"]) == (200, "no-store")
    page = Page(reply.text)
    assert page.tags["form"] == {"method": "post", "action": "/logout"}
    assert page.tags["a"] == {"href": "/dashboard/"}


def test_a_session_is_found_among_other_cookies(login: Login) -> None:
    session = cookie(login)
    name = session.partition("=")[0]
    for header in (
        f"a=b; {session}; c=d",
        f'{{"json": [1, 2]}}; {session}',
        f"{name}=old;{session}",
        f"{name}; ;;={session}; {session}",
    ):
        assert send(login, "/api/studies", HTTP_COOKIE=header).status == 200, header


def test_another_server_s_session_is_none_here(login: Login, clock: Clock) -> None:
    other = Login(App(), PASSWORD, clock=clock)
    mine, theirs = (cookie(one).partition("=") for one in (login, other))
    assert mine[0] != theirs[0]
    for header in ("=".join(theirs[::2]), f"{mine[0]}={theirs[2]}"):
        assert send(login, "/api/studies", HTTP_COOKIE=header).status == 401


def forgeries(session: str) -> Iterator[str]:
    name, _, token = session.partition("=")
    expiry, nonce, signature = token.split(".")
    yield f"{name}="
    yield f"{name}=."
    yield f"{name}=.."
    yield f"{name}={signature}"
    yield f"{name}={expiry}.{nonce}."
    yield f"{name}={int(expiry) + 1}.{nonce}.{signature}"
    yield f"{name}={expiry}.{nonce[:-1]}.{signature}"
    yield f"{name}={expiry}.{nonce}.{signature[:-1]}"
    yield f"{name}={expiry}.{nonce}.{signature.upper()}"
    yield f"{name}={expiry}.{nonce}.{signature}x"
    yield f"{name}={expiry}.{nonce}.x.{signature}"
    yield f"{name}={token}é"
    yield f"{name.upper()}={token}"
    yield f'{name}="{token}"'
    yield token


def test_a_token_that_was_touched_is_worth_nothing(login: Login, app: App) -> None:
    for header in forgeries(cookie(login)):
        assert send(login, "/api/studies", HTTP_COOKIE=header).status == 401, header
    assert app.reached == 0


# Anything at all

FUZZ = settings(deadline=None, max_examples=300)
FIELDS = st.sampled_from([b"password", b"=", b"&", b";", b"%", b"+", b"%00", b"\xff", b"x"])


@FUZZ
@given(st.binary(max_size=200) | st.lists(FIELDS, max_size=40).map(b"".join))
def test_no_form_fails_or_lets_in(body: bytes) -> None:
    app = App()
    reply = send(Login(app, PASSWORD), "/login", "POST", body)
    assert (reply.status, app.reached) == (403, 0)


@FUZZ
@given(st.text(min_size=8, max_size=LONGEST).filter(str.isprintable))
def test_every_password_that_is_taken_can_be_typed(password: str) -> None:
    check_password(password)
    login = Login(App(), password)
    assert attempt(login, password).status == 303
    assert attempt(login, password + "x").status == 403


HEADER = st.text(st.characters(max_codepoint=255), max_size=100)


@FUZZ
@given(header=HEADER, rest=HEADER, named=st.booleans())
def test_no_cookie_fails_or_lets_in(header: str, rest: str, named: bool) -> None:
    app = App()
    login = Login(app, PASSWORD)
    name = cookie(login).partition("=")[0] if named else ""
    reply = send(login, "/api/studies", HTTP_COOKIE=f"{header};{name}={rest}")
    assert (reply.status, app.reached) == (401, 0)


@FUZZ
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]),
    path=st.text(st.characters(max_codepoint=255), max_size=50).map("/".__add__),
)
def test_no_path_lets_in(method: str, path: str) -> None:
    app = App()
    assert send(Login(app, PASSWORD), path, method).status in (200, 303, 401, 403)
    assert app.reached == 0


# Where it comes from


def password_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "pass word"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"a password", "a password"),
        (b" spaces stay \nsecond line\n", " spaces stay "),
        (b"of windows\r\n", "of windows"),
        ("\N{BYTE ORDER MARK}pässword\n".encode(), "pässword"),
        (b"", ""),
        (b"\npassword\n", ""),
    ],
)
def test_the_password_is_the_first_line(tmp_path: Path, content: bytes, password: str) -> None:
    assert read_password(password_file(tmp_path, content)) == password


def test_a_file_without_an_end_is_read_in_part(tmp_path: Path) -> None:
    password = read_password(password_file(tmp_path, b"x" * 10**6))
    assert len(password) < 1000
    with pytest.raises(UsageError):
        check_password(password)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777])
def test_a_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = password_file(tmp_path, b"a password\n", mode)
    with pytest.raises(UsageError, match=f"chmod 600 '{path}'"):
        read_password(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none cannot be read: No such file"):
        read_password(tmp_path / "none")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_password(tmp_path)
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        read_password(password_file(tmp_path, b"\xff\xfe\xfd password"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        read_password(password_file(tmp_path, b"a password\n", 0o000))


@pytest.mark.parametrize(
    "password",
    ["", "1234567", "x" * (LONGEST + 1), "pass\tword", "password\n", "passwor\udc80", "\0" * 8],
)
def test_a_weak_or_odd_password_is_refused(password: str) -> None:
    with pytest.raises(UsageError, match="must be 8 to 256 printable characters") as caught:
        check_password(password)
    assert password == "" or password not in str(caught.value)


def test_8_characters_are_enough() -> None:
    check_password("12345678")
