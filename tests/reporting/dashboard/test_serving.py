from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from axsearch import UsageError, serve
from axsearch.store.database import open_database


@pytest.fixture
def storage(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    open_database(url, create=True).close()
    return url


def opened(storage: str, host: str, port: int = 0, password: str | None = None) -> str:
    """The address that a dashboard is opened on, stopped before it answers anything."""
    told = []

    def stop(address: str) -> None:
        told.append(address)
        raise KeyboardInterrupt

    serve(storage, host, port, password=password, on_ready=stop)
    return told[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_needs_no_password(storage: str, host: str) -> None:
    address = re.fullmatch(rf"http://{host}:(\d+)/dashboard/", opened(storage, host))
    assert address is not None
    assert int(address[1]) > 0
    assert opened(storage, host, int(address[1])) == address[0]  # the port was closed again


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "127.0.0.2", "gpu.example"])
def test_another_host_needs_a_password(storage: str, host: str) -> None:
    with pytest.raises(UsageError, match="needs a `password`"):
        opened(storage, host)


def test_with_a_password_it_may_be_another_host(storage: str) -> None:
    assert opened(storage, "127.0.0.2", password="correct horse").startswith("http://127.0.0.2:")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
@pytest.mark.parametrize("password", ["", "1234567"])
def test_a_weak_password_is_refused_on_every_host(storage: str, host: str, password: str) -> None:
    with pytest.raises(UsageError, match="8 to 256"):
        opened(storage, host, password=password)


def test_a_port_that_cannot_be_had_is_told(storage: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"Port {port} on 127.0.0.1 cannot be used: .*in use"):
            opened(storage, "127.0.0.1", port)
    for port in (99999, -1):
        with pytest.raises(UsageError, match=f"Port {port} on localhost cannot be used: .*65535"):
            opened(storage, "localhost", port)


@pytest.mark.parametrize("host", ["", "no host", "x" * 100, "256.1.1.1"])
def test_a_host_that_is_none_is_told(storage: str, host: str) -> None:
    with pytest.raises(UsageError, match=f"on {host} cannot be used"):
        opened(storage, host, password="correct horse")


@pytest.mark.parametrize("proxy", ["", "nginx", "127.0.0.1:80", "10.0.0.0/8", "*"])
def test_a_proxy_that_is_no_address_is_told(storage: str, proxy: str) -> None:
    with pytest.raises(UsageError, match="`proxy` must be the IP address"):
        serve(storage, port=0, password="correct horse", proxy=proxy)
