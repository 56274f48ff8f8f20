"""The list of an export's files with their sizes and checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from axsearch import strict_json
from axsearch.errors import UsageError

NAME = "axsearch_manifest.json"


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
        data = {**self.model_dump(), "sha256": self._checksum()}
        (folder / NAME).write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")

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

    def check(self, folder: Path) -> None:
        """Compare every file; raises UsageError naming the first that is not as written."""
        present = {p.name for p in folder.iterdir()} - {NAME, "__pycache__"}
        for name in sorted(set(self.files) | present):
            path = folder / name
            if name not in self.files:
                raise UsageError(f"{path} does not belong to the export; remove it.")
            # A name that the folder does not list may lead out of it.
            if name not in present or path.is_symlink() or not path.is_file():
                raise UsageError(f"{path} is missing from the export; export the model again.")
            written = self.files[name]
            if path.stat().st_size != written.bytes:
                raise UsageError(
                    f"{path} has {path.stat().st_size:,} bytes, not the {written.bytes:,} that "
                    "were written; export the model again."
                )
            if _entry(path) != written:
                raise UsageError(
                    f"{path} was changed after it was written; export the model again."
                )

    def _checksum(self) -> str:
        data = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(data.encode()).hexdigest()


def _entry(path: Path) -> Entry:
    with path.open("rb") as file:
        return Entry(
            bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest()
        )
