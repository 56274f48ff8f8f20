"""A process that has imported what others will need, and forks them in milliseconds.

``python fork_server.py FD MODULE…`` imports the modules and takes requests on a socket, one at a
time: the length of a JSON text, with four file descriptors beside it (standard input, output and
error, and one that the new process's id and at last its exit status are written to), then the text.
Each asks for what ``python ARGUMENTS…`` would do: a script, ``-m MODULE`` or ``-c CODE``. It ends
when the other end of the socket is closed.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

NUMBER = struct.Struct("=i")


def serve(control: socket.socket) -> None:
    """Fork until nobody asks any more."""
    statuses: dict[int, int] = {}
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([control, awake], [], [])
        if awake in ready:
            os.read(awake, 4096)
            _reap(statuses)
        if control in ready:
            asked = _receive(control)
            if asked is None:
                return
            request, descriptors = asked
            pid = os.fork()
            if pid == 0:
                _become(request, descriptors, [control.fileno(), awake, wake, *statuses.values()])
            *streams, status = descriptors
            for descriptor in streams:
                os.close(descriptor)
            os.write(status, NUMBER.pack(pid))
            statuses[pid] = status


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


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    head, descriptors, _, _ = socket.recv_fds(control, NUMBER.size, 4)
    if not head:
        return None
    text = bytearray()
    while len(text) < NUMBER.unpack(head)[0]:
        text += control.recv(1 << 20)
    return json.loads(text), descriptors


def _become(request: dict[str, Any], descriptors: list[int], ours: Sequence[int]) -> NoReturn:
    """What the new process does: all of it, to its end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    for descriptor in (*descriptors, *ours):
        os.close(descriptor)
    if request["session"]:
        os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # which the environment may name otherwise
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # or all processes would draw the same
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _stream(1)
    sys.stderr = sys.__stderr__ = _stream(2, errors="backslashreplace", line_buffering=True)
    status = 70
    try:
        status = _status(request["arguments"])
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(status)


def _stream(descriptor: int, **given: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(open(descriptor, "wb", closefd=False), encoding="utf-8", **given)


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
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or collections of garbage would copy every page
    serve(socket.socket(fileno=int(sys.argv[1])))
