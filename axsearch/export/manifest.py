"""The list of an export's files with their sizes and checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from axsearch import strict_json
from axsearch.errors import UsageError

NAME = "axsearch_manifest.json"
CARD = "README.md"

BESIDE = (".git", ".gitattributes", ".gitignore", ".huggingface")
"""What git and the Hugging Face hub put beside the files of an export; none of it is opened."""

TEXTS = (".jinja", ".json", ".md", ".py", ".txt", ".xml")
"""Suffixes of the files whose line endings git may change."""

POINTER = b"version https://git-lfs.github.com/spec/"


class Entry(BaseModel):
    """A file's size and SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What an export consists of; ``files`` are names inside its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    format: str
    files: dict[str, Entry]

    @classmethod
    def of(cls, folder: Path, format: str) -> Manifest:
        """List the files of a folder as they are."""
        return cls(format=format, files={p.name: _entry(p) for p in sorted(folder.iterdir())})

    def write(self, folder: Path) -> None:
        """Write the list, with a checksum of itself."""
        (folder / NAME).write_text(self._text())

    @property
    def sha256(self) -> str:
        """The checksum of the file as it is written: what ``ax_exports`` keeps of an export."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the list; raises UsageError where the folder is no export or the list was edited."""
        path = folder / NAME
        if not path.is_file():
            raise UsageError(f"{folder} is not an export of axsearch: it has no {NAME}.")
        try:
            data = strict_json.loads(path.read_text(encoding="utf-8"))
            checksum = data.pop("sha256", None) if isinstance(data, dict) else None
            manifest = cls.model_validate(data, strict=True)
        except (OSError, ValueError):
            raise UsageError(f"{path} is damaged; export the model again.") from None
        if checksum != manifest._checksum() or manifest.version != 1:
            raise UsageError(f"{path} was changed after it was written; export the model again.")
        return manifest

    def check(self, folder: Path) -> bool:
        """Compare every file; returns whether the model card is still as it was written.

        Raises UsageError naming the first other file that is not.
        """
        present = {path.name for path in contents(folder)} - {NAME}
        for name in sorted(set(self.files) | present):
            path = folder / name
            if name not in self.files:
                raise UsageError(f"{path} does not belong to the export; remove it.")
            # A name that the folder does not list may lead out of it.
            if name not in present or not path.is_file() or _leads_away(path):
                raise UsageError(f"{path} is missing from the export; export the model again.")
            if name != CARD and _entry(path) != self.files[name]:
                raise UsageError(_difference(path, self.files[name]))
        return CARD not in self.files or _entry(folder / CARD) == self.files[CARD]

    def _text(self) -> str:
        data = {**self.model_dump(), "sha256": self._checksum()}
        return json.dumps(data, indent=1, sort_keys=True) + "\n"

    def _checksum(self) -> str:
        data = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(data.encode()).hexdigest()


def contents(folder: Path) -> list[Path]:
    """What is in an export's folder, without what git and the Hugging Face hub put beside it."""
    return sorted(path for path in folder.iterdir() if not _is_beside(path))


def _is_beside(path: Path) -> bool:
    if path.name == ".cache" and path.is_dir():  # that of a download by the hub
        return {inner.name for inner in path.iterdir()} <= {"huggingface"}
    return path.name in BESIDE


def _leads_away(path: Path) -> bool:
    # In the hub's cache, the files of a snapshot are links to the blobs of its repository.
    blobs = path.parent.resolve().parent.parent / "blobs"
    return path.is_symlink() and path.resolve().parent != blobs


def _entry(path: Path) -> Entry:
    with path.open("rb") as file:
        return Entry(
            bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest()
        )


def _difference(path: Path, written: Entry) -> str:
    """The sentence on a file that is not as it was written, with its likely cause."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            return f"{path} is only the pointer of Git LFS; run `git lfs pull` there."
    if path.suffix in TEXTS and _has_other_line_endings(path.read_bytes(), written):
        return (
            f"{path} has other line endings than were written, as git makes them by its setting "
            "core.autocrlf; run `git config core.autocrlf false` there and check the files out "
            "again."
        )
    if size != written.bytes:
        return (
            f"{path} has {size:,} bytes, not the {written.bytes:,} that were written; export the "
            "model again."
        )
    return f"{path} was changed after it was written; export the model again."


def _has_other_line_endings(content: bytes, written: Entry) -> bool:
    unix = content.replace(b"\r\n", b"\n")
    return written.sha256 in (
        hashlib.sha256(variant).hexdigest() for variant in (unix, unix.replace(b"\n", b"\r\n"))
    )
