"""Where files of trained weights are: a folder or a bucket, behind Optuna's artifact stores."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
import warnings
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

import optuna
from optuna import artifacts
from sqlalchemy import Engine

from axsearch.errors import UsageError, cause
from axsearch.store.sqlite import file_of

WEIGHTS_VARIABLE = "AXSEARCH_WEIGHTS"
"""The environment variable that names the folder, or the URL of the bucket, of trained weights."""

PART = ".part"
"""The suffix of a file that is being written."""

OLD = 24 * 3600.0
"""Seconds after which a file that was being written is a killed process's, and removed."""


class Files(Protocol):
    """Optuna's protocol of artifact stores."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open a file; raises ArtifactNotFound if there is none."""
        ...

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write a file, as a whole or not at all."""
        ...

    def remove(self, artifact_id: str) -> None:
        """Remove a file."""
        ...


class Folder:
    """Files in a folder, which is made with the first of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = artifacts.FileSystemArtifactStore(path)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open a file; raises ArtifactNotFound if there is none."""
        return self._files.open_reader(artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write a file, which has its name when all of it is on the disk."""
        self._path.mkdir(parents=True, exist_ok=True)
        self._remove_parts()
        part = f".{artifact_id}.{uuid.uuid4().hex}{PART}"
        try:
            self._files.write(part, content_body)
            with (self._path / part).open("rb+") as file:
                os.fsync(file.fileno())
            (self._path / part).replace(self._path / artifact_id)
        except BaseException:
            (self._path / part).unlink(missing_ok=True)
            raise

    def remove(self, artifact_id: str) -> None:
        """Remove a file; raises ArtifactNotFound if there is none."""
        self._files.remove(artifact_id)

    def _remove_parts(self) -> None:
        for path in self._path.glob(f".*{PART}"):
            with suppress(FileNotFoundError):  # another process removed it
                if time.time() - path.stat().st_mtime > OLD:
                    path.unlink()


class Bucket:
    """Files in a bucket, below a prefix; a bucket writes a file as a whole or not at all."""

    def __init__(self, files: Files, prefix: str) -> None:
        self._files = files
        self._prefix = f"{prefix}/" if prefix else ""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open a file; raises ArtifactNotFound if there is none."""
        return self._files.open_reader(self._prefix + artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write a file."""
        self._files.write(self._prefix + artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """Remove a file."""
        self._files.remove(self._prefix + artifact_id)


def weights_files(engine: Engine) -> tuple[Files, str]:
    """The files of an open database's trained weights, and where they are, for people.

    ``AXSEARCH_WEIGHTS`` says where: a folder, ``s3://bucket/prefix`` or ``gs://bucket/prefix``.
    Otherwise it is a folder beside the SQLite file, with its name and ``.weights``, or, for a
    database in memory, a temporary folder. Nothing is made before a file is written. Raises
    UsageError for a place that cannot be used, and where a server's weights have none.
    """
    given = os.environ.get(WEIGHTS_VARIABLE, "").strip()
    if "://" in given:
        return _bucket(given)
    folder = Path(given).expanduser() if given else _beside(engine)
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"{folder} is a file, not a folder for trained weights; set {WEIGHTS_VARIABLE} to one."
        )
    return Folder(folder), str(folder)


def _beside(engine: Engine) -> Path:
    """The folder of a SQLite file's weights; raises UsageError for a server."""
    if engine.url.get_backend_name() != "sqlite":
        raise UsageError(
            "Trained weights are files, which a database server does not keep: set "
            f"{WEIGHTS_VARIABLE} to a folder that all machines reach, or to s3://bucket."
        )
    try:
        file = file_of(engine.url)
    except UsageError:  # it is in memory
        return _temporary()
    return file.with_name(f"{file.name}.weights")


_made: list[tempfile.TemporaryDirectory[str]] = []


def _temporary() -> Path:
    """A folder that is removed with the end of the process."""
    if not _made:
        _made.append(tempfile.TemporaryDirectory(prefix="axsearch-weights-"))
    return Path(_made[0].name)


def _bucket(url: str) -> tuple[Files, str]:
    """The files of a bucket, and its URL for people."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    kind, bucket, prefix = parts.scheme.lower(), parts.netloc, parts.path.strip("/")
    if kind not in ("s3", "gs") or not bucket or "@" in bucket or parts.query:
        # Not repeated: it may hold a password.
        raise UsageError(
            f"{WEIGHTS_VARIABLE} must be a folder, s3://bucket or gs://bucket, followed by "
            "/prefix or nothing."
        )
    package = {"s3": "boto3", "gs": "google-cloud-storage"}[kind]
    place = f"{kind}://{bucket}" + (f"/{prefix}" if prefix else "")
    try:
        if kind == "s3":
            files: Files = artifacts.Boto3ArtifactStore(bucket, avoid_buf_copy=True)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                files = artifacts.GCSArtifactStore(bucket)
    except ImportError:
        raise UsageError(
            f"To keep trained weights in {place}, the package {package} is needed: "
            f"`pip install {package}`."
        ) from None
    except Exception as error:
        raise UsageError(f"The bucket {place} cannot be opened: {cause(error)}.") from error
    return Bucket(files, prefix), place
