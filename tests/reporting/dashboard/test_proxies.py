"""The dashboard behind nginx and Caddy, set up as the documentation says."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import optuna
import pytest

from axsearch.store.database import open_database
from axsearch.testing.processes import Process

PASSWORD = "correct horse"
PAGE = Path(__file__).parents[3] / "docs" / "dashboard.md"
NAME = "studies.example.org"

Answer = tuple[int, Message, bytes]


def block(language: str) -> str:
    """A code block of the page, with this machine's ports and without TLS."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def of_nginx(folder: Path, port: int, dashboard: str) -> list[str]:
    own = block("nginx").replace("127.0.0.1:8080", dashboard)
    own = own.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    own = re.sub(r" *ssl_\w+ .*\n", "", own)
    paths = "".join(
        f"{name}_temp_path {folder};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/errors;\n"
        f"events {{}}\nhttp {{ access_log off;\n{paths}{own}}}\n"
    )
    return ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "errors")]


def of_caddy(folder: Path, port: int, dashboard: str) -> list[str]:
    own = block("caddy").replace("127.0.0.1:8080", dashboard)
    own = own.replace(NAME, f"http://{NAME}:{port}")
    (folder / "Caddyfile").write_text("{\n admin off\n auto_https off\n}\n" + own)
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@contextmanager
def proxied(command: list[str], port: int) -> Iterator[None]:
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, **silent) as proxy:
        try:
            end = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert time.monotonic() < end
                    assert proxy.poll() is None
                    time.sleep(0.05)
            yield
        finally:
            proxy.terminate()


@pytest.mark.parametrize(("name", "setup"), [("nginx", of_nginx), ("caddy", of_caddy)])
def test_a_stranger_does_not_lock_the_owner_out_through_a_proxy(
    tmp_path: Path, name: str, setup: Callable[[Path, int, str], list[str]]
) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    with closing(open_database(url, create=True)) as database:
        optuna.create_study(study_name="tiny", storage=database.storage)
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    file.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["-m", "axsearch", "dashboard", "--storage", url, "--port", "0"]
    with Process(*command, "--password-file", file, "--proxy", "127.0.0.1") as server:
        address = re.search(r"127\.0\.0\.1:\d+", server.stderr.readline())
        assert address is not None

        def ask(method: str, path: str, source: str, body: str = "", **headers: str) -> Answer:
            there = HTTPConnection("127.0.0.1", port, 20, source_address=(source, 0))
            given = {"Host": f"{NAME}:{port}", "Origin": f"https://{NAME}:{port}", **headers}
            there.request(method, path, body or None, given)
            answer = there.getresponse()
            found = (answer.status, answer.headers, answer.read())
            there.close()
            return found

        def log_in(password: str, source: str) -> Answer:
            # A header of the visitor's own is no news of where it is.
            lie = {"X-Forwarded-For": "192.0.2.7"}
            return ask("POST", "/login", source, urlencode({"password": password}), **lie)

        try:
            with proxied(setup(tmp_path, port, address[0]), port):
                attempts = [log_in("wrong", "127.0.0.2")[0] for _ in range(6)]
                assert attempts == [403] * 5 + [429]
                status, headers, _ = log_in(PASSWORD, "127.0.0.1")
                assert status == 303
                cookie = headers["Set-Cookie"]
                assert cookie.endswith("; Secure")
                inside = {"Cookie": cookie.partition(";")[0]}
                status, _, body = ask("GET", "/api/studies", "127.0.0.1", **inside)
                assert status == 200
                assert [s["study_name"] for s in json.loads(body)["study_summaries"]] == ["tiny"]
                assert ask("GET", "/api/studies", "127.0.0.1")[0] == 401
        finally:
            server.kill()
