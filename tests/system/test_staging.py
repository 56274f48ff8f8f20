"""What is being written is complete or not there, however its process ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from axsearch.system import staging as module
from axsearch.system.staging import LOCK, YOUNG, staging
from axsearch.testing.processes import Process

WRITE = """
import sys
from pathlib import Path
from axsearch.system.staging import staging
with staging(Path(sys.argv[1]), "some model") as folder:
    (folder / "weights").write_bytes(b"x" * 1000)
    print("in", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def writing(parent: Path) -> Iterator[Process]:
    """Another process that is writing."""
    with Process("-c", WRITE, str(parent)) as process:
        assert process.stdout.readline() == "in\n"
        yield process


def age(parent: Path) -> None:
    """Make all of what is there look as if it had been written before."""
    for path in parent.iterdir():
        os.utime(path, (time.time() - YOUNG - 1,) * 2)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_removes_what_was_written(tmp_path: Path, kind: signal.Signals) -> None:
    with writing(tmp_path) as process:
        assert len([*tmp_path.iterdir()]) == 1
        process.send_signal(kind)
        process.communicate(timeout=30)
    assert process.returncode != 0
    assert not [*tmp_path.iterdir()]


def test_the_next_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    with writing(tmp_path) as process:
        process.kill()
        process.communicate(timeout=30)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".some model-")
    with staging(tmp_path, "other"):
        assert left.exists()  # too new: its process might still be about to lock it
    age(tmp_path)
    with staging(tmp_path, "other") as folder:
        assert [*tmp_path.iterdir()] == [folder.parent]
    assert not [*tmp_path.iterdir()]


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    with writing(tmp_path) as process:
        age(tmp_path)
        with staging(tmp_path, "some model") as folder:
            assert len([*tmp_path.iterdir()]) == 2
        assert not folder.exists()
        (still,) = tmp_path.iterdir()
        assert (still / "content" / "weights").is_file()
        process.stdin.write("\n")


def test_nothing_else_that_is_hidden_is_touched(tmp_path: Path) -> None:
    own, elsewhere = tmp_path / "own", tmp_path / "elsewhere"
    (own / ".cache").mkdir(parents=True)
    (own / ".some model-abc" / "content").mkdir(parents=True)
    (own / "some model" / LOCK).mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / LOCK).touch()
    (own / ".linked").symlink_to(elsewhere)
    before = sorted(own.rglob("*"))
    age(tmp_path), age(own)
    with staging(own, "some model"):
        pass
    assert sorted(own.rglob("*")) == before
    assert (elsewhere / LOCK).exists()


def test_without_locks_nothing_is_taken_for_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise NotImplementedError("no locks on this file system")

    with staging(tmp_path, "first") as first:
        assert (first.parent / LOCK).exists()
        with monkeypatch.context() as patched:
            patched.setattr(module.FileLock, "acquire", refused)
            with staging(tmp_path, "second") as second:
                assert not (second.parent / LOCK).exists()
        assert first.exists()
