"""Folders of this user for what takes a while to make, kept from one process to the next."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def private_folder(name: str) -> Path | None:
    """A folder below the user's cache, made if it is not there, that nobody else may write to.

    None where there is none and none can be made.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # A relative path is to be ignored (XDG Base Directory Specification).
        folder = (home if home.is_absolute() else Path.home() / ".cache") / "axsearch" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_private(folder):
            return None
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):
        return None


def is_private(path: Path) -> bool:
    """Whether a file or folder is this user's, and only this user may write to it."""
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
