"""What one address may take of the web server, above all before anybody there has logged in."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer

CONNECTIONS = 32
"""Open at once from one address; a browser has 6."""

RECEIVING = 20.0
"""Seconds in which a request must be received, however slowly it comes."""

FREE_FAILURES = 5
LONGEST_DELAY = 60.0  # seconds

REMEMBERED = 10_000
"""Addresses whose wrong passwords are counted; the one that was quiet for longest is forgotten."""


def client(address: str) -> str:
    """What counts as one address: a network of 2**64 in IPv6, which one machine has to itself."""
    try:
        found = ip_address(address.strip("[]").partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped) if mapped else str(ip_network((found, 64), strict=False))
    return str(found)


class Failures:
    """Wrong passwords of each address: after 5 in a row each opens a delay, of 1 s doubled to 60 s.

    One address does not delay another. ``clock`` returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()  # failures, closed until

    def remaining(self, address: str) -> float:
        """Seconds until a password from there is looked at."""
        return self._seen.get(client(address), (0, 0.0))[1] - self._clock()

    def wrong(self, address: str) -> None:
        """Count a wrong password."""
        who = client(address)
        count = self._seen.pop(who, (0, 0.0))[0] + 1
        doublings = min(count - FREE_FAILURES, 10)
        delay = min(LONGEST_DELAY, 2.0**doublings) if doublings >= 0 else 0.0
        self._seen[who] = (count, self._clock() + delay)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    def right(self, address: str) -> None:
        """Forget the wrong ones."""
        self._seen.pop(client(address), None)


class Server(TcpWSGIServer):  # type: ignore[misc]
    """Waitress, with limits that it has no settings for.

    One address has at most 32 connections, but for a trusted proxy, whose connections are those of
    many. A request must be received within 20 seconds. Its body may have as many bytes as ``most``
    says when it sees the headers, and is refused before it is read if it has more.
    """

    def __init__(self, *given: Any, most: Callable[[Mapping[str, str]], int], **named: Any) -> None:
        self.most = most
        self.channel_class = self._channel
        super().__init__(*given, **named)

    def _channel(self, _: Any, sock: Any, address: Any, adj: Adjustments, map: Any) -> None:
        who = client(address[0])
        others = sum(channel.who == who for channel in self.active_channels.values())
        if others >= CONNECTIONS and address[0] != adj.trusted_proxy:
            sock.close()
        else:
            _Channel(who, self, sock, address, adj, map=map)

    def maintenance(self, now: float) -> None:
        """Close connections that are idle, and those whose request takes too long to come."""
        super().maintenance(now)
        for channel in self.active_channels.values():
            if channel.request is not None and now - channel.began > RECEIVING:
                channel.will_close = True


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection that knows whose it is, and when the request began that it is receiving."""

    def __init__(self, who: str, server: Server, *given: Any, **named: Any) -> None:
        self.who, self.began = who, 0.0
        self.parser_class = partial(_Parser, server.most)
        super().__init__(server, *given, **named)

    def received(self, data: bytes) -> bool:
        if self.request is None:
            self.began = time.time()
        return bool(super().received(data))


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """A request whose longest body depends on its headers."""

    def __init__(self, most: Callable[[Mapping[str, str]], int], adj: Adjustments) -> None:
        super().__init__(copy(adj))
        self._most = most

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        refused = self.adj.max_request_body_size = self._most(self.headers) + 1
        if self.content_length >= refused:
            self.expect_continue = False  # or waitress asks for the body that it will refuse
