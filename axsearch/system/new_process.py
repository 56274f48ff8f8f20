"""Opening an export in a new Python process that cannot do much else, nor outlive this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from axsearch.errors import AxsearchError

LONGEST = 600.0
"""Seconds in which an export must be opened and have answered."""

MEMORY, MEMORY_PER_BYTE = 2**32, 8
"""Bytes that the libraries may take, and those for each byte of the export: a runtime has several
copies of the weights for a while."""

LOOK = 0.1
"""Seconds between two looks at a process: it can take little more than it may between them."""

# A check ends before it has made garbage; what it imports is a million objects to look through.
BEGIN = """
import gc, os, sys
gc.disable()
parent = int(sys.argv.pop(1))
"""

# PR_SET_PDEATHSIG, whatever the process is doing; the parent may have ended before.
DIES_WITH_PARENT = """
import ctypes, signal
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != parent:
    os._exit(1)
"""

# Where there is no such thing: the other end of its input is closed when the parent ends.
ENDS_WITH_INPUT = """
import threading
def end():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=end, daemon=True).start()
"""

GUARD = DIES_WITH_PARENT if sys.platform == "linux" else ENDS_WITH_INPUT


def run_check(script: str, folder: Path, *arguments: str) -> float:
    """Run a script in a new, isolated Python; returns the number on its last line.

    It receives the folder and the arguments, finds nothing on the Hugging Face hub but what is on
    this machine, and ends when this process ends. Raises AxsearchError with its last line of output
    where it fails, and where it takes more time or memory than opening an export does.
    """
    status, output, errors = in_new_process(script, folder, *arguments)
    if status != 0:
        reason = (errors.strip().splitlines() or ["no reason given"])[-1]
        raise AxsearchError(f"{folder} does not open in a new process: {reason}")
    return float(json.loads(output.strip().splitlines()[-1]))


def in_new_process(script: str, folder: Path, *arguments: str) -> tuple[int, str, str]:
    """A script's exit status, output and errors; raises AxsearchError where it exceeds a limit."""
    given = (os.getpid(), folder.resolve(), *arguments)
    reading, held = os.pipe()  # a child that has no other way sees this process end by it
    try:
        with subprocess.Popen(
            [sys.executable, "-I", "-c", f"{BEGIN}{GUARD}{script}", *map(str, given)],
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        ) as child:
            try:
                output, errors = _limited(child, folder)
            except BaseException:
                child.kill()
                raise
    finally:
        os.close(reading)
        os.close(held)
    return child.returncode, output, errors


def _limited(child: subprocess.Popen[str], folder: Path) -> tuple[str, str]:
    """The child's output and errors; raises AxsearchError where it goes over a limit."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    most, end = MEMORY + MEMORY_PER_BYTE * size, time.monotonic() + LONGEST
    while True:
        try:
            return child.communicate(timeout=LOOK)
        except subprocess.TimeoutExpired:
            pass
        if time.monotonic() > end:
            raise AxsearchError(
                f"{folder} was not open after {LONGEST:.0f} s, so its process was stopped; export "
                "it again, or verify it on a faster machine."
            )
        with suppress(psutil.Error):  # it has just ended
            if psutil.Process(child.pid).memory_info().rss > most:
                raise AxsearchError(
                    f"Opening {folder} took more than {most / 1e9:.1f} GB of memory, which its "
                    "weights do not need, so its process was stopped; export it again."
                )
