"""Strangers at the server itself: they can neither hold it nor make it store anything."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from waitress import wasyncore

from axsearch.reporting.dashboard import limits
from axsearch.reporting.dashboard.limits import CONNECTIONS
from axsearch.reporting.dashboard.serving import LARGEST_BODY, SERVER, _listen, _server, _trusting
from tests.wsgi_client import App

INSIDE = b"Cookie: inside\r\n"
FEW = 4096


class Tells(App):
    """Also tells how long the body is and where the request comes from."""

    def __call__(self, environ, start_response):  # type: ignore[no-untyped-def]
        super().__call__(environ, start_response)
        body = environ["wsgi.input"].read()
        return [f"{len(body)} bytes from {environ['REMOTE_ADDR']}".encode()]


class Running:
    """A server in a thread, with the limits and settings of the dashboard's."""

    def __init__(self, **settings: object) -> None:
        self.app = Tells()
        self._channels: dict[int, object] = {}
        given = {**SERVER, "cleanup_interval": 0, **settings}
        listening = _listen("127.0.0.1", 0)
        self.server = _server(self.app, self._most, listening, self._channels, given)
        self.server.adj.asyncore_loop_timeout = 0.05  # seconds until it sees that it was closed
        self.port = int(self.server.effective_port)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _most(self, headers: Mapping[str, str]) -> int:
        return LARGEST_BODY if headers.get("COOKIE") == "inside" else FEW

    def _run(self) -> None:
        with suppress(OSError, ValueError):  # its sockets are closed under it
            self.server.run()

    def end(self) -> None:
        self.server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._channels)
        self._thread.join(timeout=5)

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10, (source, 0))

    def ask(self, head: bytes, body: bytes = b"", source: str = "127.0.0.1") -> bytes:
        """What comes back until the server closes."""
        with self.connect(source) as connection:
            return sent(connection, head, body)


def sent(connection: socket.socket, head: bytes, body: bytes = b"") -> bytes:
    connection.sendall(head + b"Connection: close\r\n\r\n")
    with suppress(ConnectionError):  # it may refuse before all of a body is sent
        connection.sendall(body)
    answer = b""
    with suppress(ConnectionError):
        while more := connection.recv(2**16):
            answer += more
    return answer


@pytest.fixture
def running() -> Iterator[Running]:
    server = Running()
    yield server
    server.end()


def post(length: int, extra: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n" % (extra, length)


GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


def test_an_address_does_not_hold_all_connections(running: Running) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(running.connect()) for _ in range(CONNECTIONS)]
        for connection in held:
            connection.sendall(b"GET /")  # and never more
        assert b"200 OK" in running.ask(GET, source="127.0.0.2")
        beyond = stack.enter_context(running.connect())
        assert beyond.recv(1) == b""
        held.pop().close()
        end = time.monotonic() + 10
        while b"200 OK" not in running.ask(GET):  # once the server has seen it
            assert time.monotonic() < end


def test_a_trusted_proxy_has_the_connections_of_many() -> None:
    running = Running(**_trusting("127.0.0.1"))
    try:
        with ExitStack() as stack:
            for _ in range(CONNECTIONS):
                stack.enter_context(running.connect()).sendall(b"GET /")
            assert b"200 OK" in running.ask(GET)
    finally:
        running.end()


def test_a_request_that_comes_slowly_is_not_waited_for(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RECEIVING", 0.5)
    with running.connect() as slow, running.connect() as body:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        body.sendall(post(1000, INSIDE) + b"\r\n")
        began = time.monotonic()
        with pytest.raises(ConnectionError):  # noqa: PT012
            while time.monotonic() - began < 10:
                for connection in (slow, body):
                    connection.sendall(b"a: b\r\n")
                time.sleep(0.1)
            pytest.fail("bytes that trickle in keep a connection open")
    assert running.app.reached == 0


@pytest.mark.parametrize(
    ("size", "extra", "taken"),
    [
        (0, b"", True),
        (FEW, b"", True),
        (FEW + 1, b"", False),
        (2**26, b"", False),
        (2**26, b"Expect: 100-continue\r\n", False),
        (FEW + 1, INSIDE, True),
        (LARGEST_BODY, INSIDE, True),
        (LARGEST_BODY + 1, INSIDE, False),
    ],
)
def test_how_long_a_body_may_be(running: Running, size: int, extra: bytes, taken: bool) -> None:
    body = b"x" * size if taken else b"x" * min(size, 1000)  # refused before it is there
    answer = running.ask(post(size, extra), body)
    assert (f"\r\n\r\n{size} bytes" in answer.decode()) == taken
    assert answer.startswith(b"HTTP/1.1 200" if taken else b"HTTP/1.1 413")
    assert running.app.reached == taken


@pytest.mark.parametrize(("size", "taken"), [(FEW // 2, True), (2**18, False)])
def test_how_long_a_body_in_chunks_may_be(running: Running, size: int, taken: bool) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    answer = running.ask(head, b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size))
    assert (f"{size} bytes" in answer.decode()) == taken
    assert running.app.reached == taken


def test_no_body_is_written_to_the_disk(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    size = LARGEST_BODY
    assert f"{size} bytes" in running.ask(post(size, INSIDE), b"x" * size).decode()


@pytest.mark.parametrize(
    ("proxy", "header", "shown"),
    [
        (None, b"192.0.2.7", "127.0.0.1"),
        ("127.0.0.1", b"192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", b"10.0.0.1, 192.0.2.7", "192.0.2.7"),  # the first is the client's own word
        ("127.0.0.2", b"192.0.2.7", "127.0.0.1"),
    ],
)
def test_whose_word_is_taken_for_where_a_request_comes_from(
    proxy: str | None, header: bytes, shown: str
) -> None:
    running = Running(**({} if proxy is None else _trusting(proxy)))
    try:
        answer = running.ask(GET + b"X-Forwarded-For: " + header + b"\r\n").decode()
        assert answer.endswith(f" from {shown}")
    finally:
        running.end()
