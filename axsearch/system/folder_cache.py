"""Folders of the user's cache: what takes long to write, kept under the key of what made it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from axsearch.system.cache import private_folder
from axsearch.system.staging import staging


class FolderCache:
    """Folders in the user's cache, of limited size; those used longest ago are deleted.

    Args:
        name: of the folder that they are in.
        most: bytes of all files.
        made_with: versions of all that writes them: what another version wrote is not read.
    """

    def __init__(self, name: str, most: int, made_with: Sequence[str]) -> None:
        self._name, self._most, self._made_with = name, most, tuple(made_with)

    @contextmanager
    def folder(
        self, key: Sequence[str], write: Callable[[Path], None], *, lasting: bool = True
    ) -> Iterator[Path]:
        """A folder with what ``write`` writes into it, now or under the same key before.

        It is to be read while the context is open. Where it is not to last, where there is no
        cache or its disk is full, it is a temporary one.
        """
        place = self._place(key) if lasting else None
        if place is not None and not place.is_dir():
            with suppress(OSError):  # the disk is full, or another process was faster
                with staging(place.parent, self._name) as inside:
                    write(inside)
                    inside.rename(place)
                self._tidy(place)
        if place is not None and place.is_dir():
            with suppress(OSError):
                os.utime(place)
            yield place
            return
        with tempfile.TemporaryDirectory(prefix="axsearch-", ignore_cleanup_errors=True) as made:
            write(Path(made))
            yield Path(made)

    def _place(self, key: Sequence[str]) -> Path | None:
        folder = private_folder(self._name)
        name = hashlib.sha256(" ".join([*key, *self._made_with]).encode()).hexdigest()
        return None if folder is None else folder / name

    def _tidy(self, kept: Path) -> None:
        """Delete folders used longest ago where all are too large, but not the one just written."""
        folders = [path for path in kept.parent.iterdir() if path.is_dir() and path.name[0] != "."]
        total = 0
        for folder in sorted(folders, key=_used, reverse=True):
            total += sum(file.stat().st_size for file in folder.glob("*"))
            if total > self._most and folder != kept:
                shutil.rmtree(folder, ignore_errors=True)


def _used(folder: Path) -> float:
    return folder.stat().st_mtime
