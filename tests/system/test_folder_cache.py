"""Folders that are written once, and found by later processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from axsearch.system import folder_cache
from axsearch.system.folder_cache import FolderCache


def writing(size: int, seen: list[Path] | None = None) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "file").write_bytes(b"x" * size)
        if seen is not None:
            seen.append(folder)

    return write


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_it_is_written_once_for_a_key_and_what_made_it() -> None:
    written: list[Path] = []
    for made_with in (["1"], ["1"], ["2"]):
        for key in (["a"], ["b"]):
            with FolderCache("things", 1000, made_with).folder(key, writing(10, written)) as there:
                assert (there / "file").read_bytes() == b"x" * 10
    assert len(written) == 4


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = FolderCache("things", 25, [])
    for number, key in enumerate(("a", "b", "a", "c")):
        with cache.folder([key], writing(10)) as there:
            pass
        os.utime(there, (number, number))
    left: list[Path] = []
    for key in ("a", "c", "b"):
        with cache.folder([key], writing(10, left)):
            pass
    assert len(left) == 1  # b
    with cache.folder(["large"], writing(100)) as there:
        assert there.is_dir()  # even alone it is too large, and stays until the next


def test_what_is_not_to_last_or_cannot_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FolderCache("things", 1000, [])
    with cache.folder(["a"], writing(10), lasting=False) as there:
        assert (there / "file").is_file()
    assert not there.exists()
    assert not any(tmp_path.rglob("file"))
    monkeypatch.setattr(folder_cache, "private_folder", lambda _: None)
    with cache.folder(["a"], writing(10)) as there:
        assert (there / "file").is_file()
    assert not there.exists()


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise KeyboardInterrupt

    cache = FolderCache("things", 1000, [])
    with pytest.raises(KeyboardInterrupt), cache.folder(["a"], fails):
        pass
    assert not any(tmp_path.rglob("file"))
    with cache.folder(["a"], writing(10)) as there:
        assert (there / "file").read_bytes() == b"x" * 10


def test_another_process_that_was_faster_is_no_fault() -> None:
    cache = FolderCache("things", 1000, [])

    def late(folder: Path) -> None:
        with cache.folder(["a"], writing(10)):
            pass
        (folder / "file").write_bytes(b"y" * 10)

    with cache.folder(["a"], late) as there:
        assert (there / "file").read_bytes() == b"x" * 10
