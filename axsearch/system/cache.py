"""This user's cache folders, for results that take a while to compute."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def private_folder(name: str) -> Path | None:
    """A folder in the user's cache, created if needed, that nobody else may write to.

    None if there is none and none can be created.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # The XDG Base Directory Specification says to ignore a relative path.
        folder = (home if home.is_absolute() else Path.home() / ".cache") / "axsearch" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_private(folder):
            return None
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):
        return None


def is_private(path: Path) -> bool:
    """Whether a file or folder belongs to this user, and only this user may write to it."""
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
