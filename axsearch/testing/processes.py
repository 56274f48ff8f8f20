"""Processes as tests start them: forked from one that has imported what they need.

A Python that imports torch and transformers first takes seconds, of which the tests would spend
most of their time. Signals, kills, exits and several processes on one database are as real in a
fork.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from axsearch.testing.fork_server import NUMBER, SPAWNED, adopt_orphans, ask, forking

IMPORTED = (
    "pytest", "torch", "transformers.models.bert.modeling_bert", "datasets", "optuna",
    "axsearch.cli", "axsearch.running.remeasuring", "axsearch.running.search",
    "axsearch.running.session", "axsearch.reporting.dashboard.serving",
    "axsearch.testing.scripts_once",
)  # fmt: skip
FOR_EXPORTS = ("torch", "transformers.models.bert.modeling_bert", "safetensors.torch")
"""Imported where what runs is to do without axsearch."""
OPTIONAL = ("psycopg", "sqlalchemy.dialects.postgresql.psycopg")
"""Imported too, where there is the first of them: it belongs to an extra."""


class Server:
    """A fork server of this process.

    Args:
        modules: what it imports.
        environment: of it, beside this process's; what libraries read on import a fork's own
            environment no longer changes.
    """

    def __init__(self, modules: Sequence[str], **environment: str) -> None:
        self.control, theirs = socket.socketpair()
        script, number = Path(__file__).with_name("fork_server.py"), theirs.fileno()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(script), str(number), *modules],
                pass_fds=[number], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                start_new_session=True, env={**os.environ, **environment},
            )  # fmt: skip

    def end(self) -> None:
        """End it; processes that it forked go on."""
        self.control.close()
        self._process.wait()


_servers: dict[bool, Server] = {}


def server(*, for_exports: bool = False) -> Server:
    """The fork server of this process, which is started when first asked for.

    Args:
        for_exports: whether it is the one that has imported torch and transformers, nothing of
            axsearch, and finds no hub.
    """
    if for_exports not in _servers:
        if for_exports:
            modules = tempfile.mkdtemp(prefix="modules-")
            made = Server(FOR_EXPORTS, HF_HUB_OFFLINE="1", HF_MODULES_CACHE=modules)
        else:
            made = Server((*IMPORTED, *(OPTIONAL if find_spec(OPTIONAL[0]) else ())))
        _servers[for_exports] = made
    return _servers[for_exports]


def end_servers() -> None:
    """End the fork servers, if there are any."""
    while _servers:
        _servers.popitem()[1].end()


@contextmanager
def spawned_by_the_server() -> Iterator[None]:
    """While open, what multiprocessing spawns from this process is forked by the server."""
    if sys.platform != "linux":
        yield
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("multiprocessing.util.spawnv_passfds", forking(server().control))
        adopt_orphans(True)
        try:
            yield
        finally:
            adopt_orphans(False)


class Process:
    """A process that runs what ``python ARGUMENTS…`` would, with the methods of a Popen.

    Args:
        arguments: a script, ``-m`` and a module, or ``-c`` and code, and what follows.
        env: of the process; this one's if None.
        new_session: whether it begins a session, whose processes a signal can be sent to at once.
        spawns: whether it starts processes through multiprocessing.
        for_exports: whether it is forked from one that has not imported axsearch.
    """

    def __init__(
        self,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        new_session: bool = False,
        spawns: bool = False,
        for_exports: bool = False,
    ) -> None:
        self.args = [str(argument) for argument in arguments]
        request = {
            "arguments": self.args, "numbers": [0, 1, 2],
            "environment": dict(os.environ if env is None else env),
            "folder": str(Path.cwd()), "session": new_session, "spawns": spawns,
        }  # fmt: skip
        (read, into), (out, write), (err, complain), (self._status, ended) = (
            os.pipe() for _ in range(4)
        )
        ask(server(for_exports=for_exports).control, request, ended, [read, write, complain])
        for descriptor in (read, write, complain, ended):
            os.close(descriptor)
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(descriptor, mode)
            for descriptor, mode in ((into, "w"), (out, "r"), (err, "r"))
        )
        self.returncode: int | None = None
        self.pid = self._number()

    def _number(self) -> int:
        said = os.read(self._status, NUMBER.size)
        if not said:
            raise RuntimeError("The fork server has died.")
        return int(NUMBER.unpack(said)[0])

    @property
    def spawned(self) -> list[psutil.Process]:
        """The processes that it started through multiprocessing."""
        return [child for child in psutil.Process(self.pid).children() if child.name() == SPAWNED]

    def poll(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float = 180) -> int:
        """The exit status; raises TimeoutExpired."""
        status = self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return status

    def _ended(self, timeout: float) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = self._number()
            os.close(self._status)
        return self.returncode

    def communicate(self, timeout: float = 180) -> tuple[str, str]:
        """What it says on both streams from now to its end; raises TimeoutExpired."""
        deadline = time.monotonic() + timeout
        said = {}

        def read(stream: IO[str]) -> None:
            said[stream] = stream.read()

        self.stdin.close()
        streams = (self.stdout, self.stderr)
        readers = [threading.Thread(target=read, args=[s], daemon=True) for s in streams]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(max(deadline - time.monotonic(), 0))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout)
        self.wait(max(deadline - time.monotonic(), 0))
        self._close()
        return said[self.stdout], said[self.stderr]

    def send_signal(self, kind: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, kind)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def _close(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stdin.close()  # what waits for more to read ends
        if kind is not None:
            self.kill()
        self.wait()
        self._close()


def run(*arguments: object, check: bool = False, **given: Any) -> subprocess.CompletedProcess[str]:
    """What :class:`Process` runs, to its end; with ``check`` it must not fail."""
    with Process(*arguments, **given) as process:
        out, err = process.communicate()
    assert process.returncode is not None
    if check:
        assert process.returncode == 0, err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def in_fork(script: str, folder: Path, *arguments: str) -> tuple[int, str, str]:
    """What :func:`axsearch.system.new_process.in_new_process` does, in a fork, without limits.

    A new process imports torch and transformers first.
    """
    done = run("-c", script, folder.resolve(), *arguments, for_exports=True)
    return done.returncode, done.stdout, done.stderr
