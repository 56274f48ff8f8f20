"""A process that has imported what others will need, and forks them in milliseconds.

``python fork_server.py FD MODULE…`` imports the modules, reads migrations once for all if
``axsearch.testing.scripts_once`` is one of them, and serves requests that come through a socket
until it is closed: the length of a JSON text, beside it file descriptors, then the text. The first
descriptor is where the new process's id and then its exit status are written to, the others are its
own. What is asked for is what ``python ARGUMENTS…`` would do: a script, ``-m MODULE`` or
``-c CODE``.

A process that was asked for with ``spawns`` has such a server of its own, so that what it starts
through multiprocessing is there in milliseconds too.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import io
import json
import multiprocessing.util
import os
import runpy
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

NUMBER = struct.Struct("=i")
SPAWNED = "spawned"
"""The name, as ``ps`` shows it, of a process that multiprocessing started."""

Request = dict[str, Any]

_asking = threading.Lock()
"""A request is two writes, between which another thread's must not come."""


def ask(control: socket.socket, request: Request, status: int, own: Sequence[int]) -> None:
    """Ask a server for a process.

    Args:
        control: the socket that it serves.
        request: ``arguments``; ``numbers``, which its own descriptors have in it; ``environment``;
            ``folder``; and, if they apply, ``session``, ``spawns``, ``name``, which ``ps`` shows,
            and ``orphan``: its parent is not the server but the nearest process above that adopts
            orphans.
        status: where its id and its exit status are written to.
        own: its own descriptors.
    """
    text = json.dumps(request).encode()
    with _asking:
        socket.send_fds(control, [NUMBER.pack(len(text))], [status, *own])
        control.sendall(text)


def adopt_orphans(adopt: bool) -> None:
    """Whether this process is to be the parent of orphans below it."""
    set_child_subreaper = 36
    assert ctypes.CDLL(None).prctl(set_child_subreaper, int(adopt), 0, 0, 0) == 0


def forking(control: socket.socket) -> Callable[[bytes, Sequence[Any], Sequence[int]], int]:
    """What stands in for ``multiprocessing.util.spawnv_passfds`` in a process that adopts orphans:
    processes that it spawns are forked by a server.
    """
    real = multiprocessing.util.spawnv_passfds

    def spawn(path: bytes, arguments: Sequence[Any], descriptors: Sequence[int]) -> int:
        if "--multiprocessing-fork" not in arguments:
            return real(path, arguments, descriptors)
        numbers = sorted(descriptors)
        request = {
            "arguments": list(arguments[-3:]), "numbers": numbers, "orphan": True,
            "environment": dict(os.environ), "folder": str(Path.cwd()), "name": SPAWNED,
        }  # fmt: skip
        read, write = os.pipe()
        ask(control, request, write, numbers)
        os.close(write)
        pid, _ = (NUMBER.unpack(os.read(read, NUMBER.size))[0] for _ in range(2))
        os.close(read)
        return int(pid)

    return spawn


def serve(control: socket.socket) -> None:
    """Fork until nobody asks any more."""
    statuses: dict[int, int] = {}
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready = select.select([control.fileno(), awake], [], [])[0]
        if awake in ready:
            os.read(awake, 4096)
            _reap(statuses)
        if control.fileno() in ready:
            asked = _receive(control)
            if asked is None:
                return
            request, (status, *own) = asked
            pid = os.fork()
            if pid == 0:
                for descriptor in (control.fileno(), awake, wake, *statuses.values()):
                    os.close(descriptor)
                _become(request, status, own)
            for descriptor in own:
                os.close(descriptor)
            statuses[pid] = status
            if not request.get("orphan"):
                os.write(status, NUMBER.pack(pid))


def _reap(statuses: dict[int, int]) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, ended = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            status = statuses.pop(pid)
            with suppress(BrokenPipeError):
                os.write(status, NUMBER.pack(os.waitstatus_to_exitcode(ended)))
            os.close(status)


def _receive(control: socket.socket) -> tuple[Request, list[int]] | None:
    head, descriptors, _, _ = socket.recv_fds(control, NUMBER.size, 16)
    if not head:
        return None
    (length,) = NUMBER.unpack(head)
    text = bytearray()
    while len(text) < length:  # and no further: another request may follow
        part = control.recv(length - len(text))
        if not part:
            return None
        text += part
    return json.loads(text), descriptors


def _become(request: Request, status: int, own: list[int]) -> NoReturn:
    """What a new process does: all of it, to its end."""
    if request.get("orphan") and (pid := os.fork()):
        os.write(status, NUMBER.pack(pid))
        os._exit(0)
    os.close(status)
    _place(own, request["numbers"])
    if request.get("session"):
        os.setsid()
    if "name" in request:
        with suppress(OSError):
            Path("/proc/self/comm").write_text(request["name"])
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # which the environment may name otherwise
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # or all processes would draw the same
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    for name, stream in (
        ("stdout", _stream(1)),
        ("stderr", _stream(2, errors="backslashreplace", line_buffering=True)),
    ):
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if request.get("spawns") and sys.platform == "linux":
        _spawn_from_here()
    _end(_status(request["arguments"]))


def _place(own: Sequence[int], numbers: Sequence[int]) -> None:
    """Give descriptors their numbers, which others of them may have."""
    high = 1000
    for offset, descriptor in enumerate(own):
        os.dup2(descriptor, high + offset)
        os.close(descriptor)
    for offset, number in enumerate(numbers):
        os.dup2(high + offset, number)
        os.close(high + offset)


def _stream(descriptor: int, **given: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(open(descriptor, "wb", closefd=False), encoding="utf-8", **given)


def _spawn_from_here() -> None:
    """From here on, what multiprocessing spawns is forked from what this process is now."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        for kind in (signal.SIGINT, signal.SIGTERM):  # which may be sent to the whole group
            signal.signal(kind, signal.SIG_IGN)
        serve(theirs)
        os._exit(0)
    theirs.close()
    adopt_orphans(True)
    setattr(multiprocessing.util, "spawnv_passfds", forking(ours))  # noqa: B010 - its type differs


def _end(status: int) -> NoReturn:
    """What an interpreter does at its end."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(status)


def _status(arguments: list[str]) -> int:
    """Run what is asked for; the exit status that an interpreter would have."""
    try:
        _run(arguments)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _run(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(arguments[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    # In place of this folder, whose modules have names of others.
    sys.path[0] = str(Path(__file__).parents[2])
    gc.disable()
    for name in sys.argv[2:]:
        importlib.import_module(name)
    if "axsearch.testing.scripts_once" in sys.modules:
        sys.modules["axsearch.testing.scripts_once"].read_scripts_once()
    gc.freeze()  # or collections of garbage would copy every page
    gc.enable()
    serve(socket.socket(fileno=int(sys.argv[1])))
