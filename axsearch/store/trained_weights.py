"""Trained weights: files in a folder or a bucket, behind Optuna's artifact stores.

A database row says which file holds the weights of a key, and its checksum. It is written after the
file, so that a process that is killed leaves no row without its file. A file's name has its own
checksum: two processes that train the same weights write the same file, or two, of which the row
says which one counts.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy import Engine, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from axsearch.errors import AxsearchError, UsageError, cause
from axsearch.space.recipe import Recipe
from axsearch.store.models import RecipeRow, WeightsRow
from axsearch.store.outages import outlast
from axsearch.store.records import damaged
from axsearch.store.weights_files import PART, WEIGHTS_VARIABLE, Files, weights_files

SUFFIX = ".safetensors"

AT_ONCE = 1 << 20  # bytes

REMEDY = (
    f"copy the files of the weights there, set {WEIGHTS_VARIABLE} to the folder or bucket that has "
    "them, or run `axsearch recover` again"
)


class WeightsStore:
    """Trained weights by their keys: rows of a database, and files in a folder or bucket.

    Attributes:
        place: where the files are, for people; without secrets.

    Args:
        engine: an open database. Reading writes nothing to it.
        files: the files.
        place: the attribute.
    """

    def __init__(self, engine: Engine, files: Files, place: str) -> None:
        self.place = place
        self._engine = engine
        self._files = files

    def made(self, key: str) -> dict[str, Any] | None:
        """How the weights of a key were made, whose file may have been lost since; None where none
        were kept.
        """
        row = self._row(key)
        return None if row is None else dict(row.made)

    def save(
        self, key: str, recipe: Recipe, file: Path, made: Mapping[str, Any], seconds: float
    ) -> None:
        """Keep a file of weights; one that is kept under the key already stays, if it is whole.

        Args:
            key: SHA-256 of what the weights were made from.
            recipe: of the model that was trained.
            file: the weights.
            made: how they were made, as JSON.
            seconds: how long the training took.

        Raises:
            AxsearchError: the file cannot be written where the weights are kept.
        """
        before = self._row(key)
        if before is not None and self._is_whole(before):
            return
        with file.open("rb") as reader:
            sha256 = hashlib.file_digest(reader, "sha256").hexdigest()
        artifact = f"{key}-{sha256[:16]}{SUFFIX}"
        with self._reaching("written to"), file.open("rb") as reader:
            self._files.write(artifact, reader)
        values = {
            "recipe": recipe.hash,
            "artifact": artifact,
            "sha256": sha256,
            "size_bytes": file.stat().st_size,
            "made": dict(made),
            "seconds": seconds,
        }
        self._keep(key, recipe, values, None if before is None else before.artifact)
        self._remove_others(key, {artifact, *(() if before is None else (before.artifact,))})

    def fetch(self, key: str, to: Path) -> None:
        """Write the weights of a key to a file, all of them or nothing.

        Raises:
            UsageError: there are none, or their file is missing or damaged.
            AxsearchError: the place where they are kept cannot be read.
        """
        row = self._row(key)
        if row is None:
            raise UsageError(
                f"This database has no trained weights {key[:12]}…; run `axsearch recover` again."
            )
        part = to.with_name(f".{to.name}.{uuid.uuid4().hex}{PART}")
        try:
            with part.open("xb") as writer:
                found = self._checksum(row, writer.write)
            if found != row.sha256:
                wrong = "missing from" if found is None else "damaged in"
                raise UsageError(
                    f"The trained weights of {named(row)} are {wrong} {self.place} (the file "
                    f"{row.artifact}): {REMEDY}."
                )
            part.replace(to)
        finally:
            part.unlink(missing_ok=True)

    def is_whole(self, key: str) -> bool:
        """Whether there are weights of a key, with a file that is as it was written."""
        row = self._row(key)
        return row is not None and self._is_whole(row)

    def check(self) -> list[str]:
        """The keys of weights whose files are missing or damaged; reads all of them."""
        return [row.key for row in _rows(self._engine) if not self._is_whole(row)]

    def _row(self, key: str) -> WeightsRow | None:
        return next(iter(_rows(self._engine, key)), None)

    def _is_whole(self, row: WeightsRow) -> bool:
        return self._checksum(row, lambda _: None) == row.sha256

    def _checksum(self, row: WeightsRow, write: Callable[[bytes], Any]) -> str | None:
        """The checksum of a row's file, all of which is passed on; None where there is none."""
        digest = hashlib.sha256()
        try:
            with self._reaching("read from"):
                opened = self._files.open_reader(row.artifact)
        except ArtifactNotFound:
            return None
        with closing(opened):
            while True:
                with self._reaching("read from"):
                    data = opened.read(AT_ONCE)
                if not data:
                    break
                digest.update(data)
                write(data)
        return digest.hexdigest()

    @outlast
    def _keep(
        self, key: str, recipe: Recipe, values: Mapping[str, Any], replaced: str | None
    ) -> None:
        """Write the row of a key, in place of one with the file ``replaced``, if that still stands.

        A row that another process wrote meanwhile stays.
        """
        with Session(self._engine) as session, suppress(IntegrityError), session.begin():
            if session.get(RecipeRow, recipe.hash) is None:
                session.add(RecipeRow(hash=recipe.hash, json=recipe.to_json()))
        with Session(self._engine) as session, suppress(IntegrityError), session.begin():
            if replaced is None:
                session.execute(insert(WeightsRow).values(key=key, **values))
            else:
                own = WeightsRow.key == key, WeightsRow.artifact == replaced
                session.execute(update(WeightsRow).where(*own).values(**values))

    def _remove_others(self, key: str, artifacts: set[str]) -> None:
        """Remove those of some files that are not the one of a key's row."""
        row = self._row(key)
        if row is None:
            raise AxsearchError("The database has lost the trained weights; run the command again.")
        for artifact in artifacts - {row.artifact}:
            with suppress(ArtifactNotFound), self._reaching("removed from"):
                self._files.remove(artifact)

    @contextmanager
    def _reaching(self, what: str) -> Iterator[None]:
        """Raises AxsearchError in place of what a disk or a bucket's library raises."""
        try:
            yield
        except (ArtifactNotFound, AxsearchError):
            raise
        except Exception as error:
            reason = getattr(error, "strerror", None) or cause(error)
            raise AxsearchError(
                f"Trained weights cannot be {what} {self.place} ({reason}); put that right, or set "
                f"{WEIGHTS_VARIABLE} to another folder or bucket."
            ) from error


def weights_store(engine: Engine) -> WeightsStore:
    """The trained weights of an open database.

    Raises UsageError where it is not known where their files are, see
    :func:`axsearch.store.weights_files.weights_files`.
    """
    files, place = weights_files(engine)
    return WeightsStore(engine, files, place)


@outlast
def weights_kept(engine: Engine) -> tuple[int, int]:
    """How many trained weights a database knows, and how many bytes they are together."""
    wanted = select(func.count(), func.sum(WeightsRow.size_bytes)).select_from(WeightsRow)
    with Session(engine) as session:
        count, size = session.execute(wanted).one()
    return count, int(size or 0)


def named(row: WeightsRow) -> str:
    """Whose weights they are, for people: study and trial, where that was noted."""
    study, trial = (row.made.get(name) for name in ("study", "trial"))
    if study is None or trial is None:
        return f"key {row.key[:12]}…"
    return f"trial {trial} of study {study!r}"


def weights_named(engine: Engine, keys: Sequence[str]) -> list[str]:
    """Whose weights those of some keys are, see :func:`named`."""
    return [named(row) for row in _rows(engine) if row.key in keys]


@outlast
def _rows(engine: Engine, key: str | None = None) -> list[WeightsRow]:
    """The row of a key, or all; raises UsageError for one that axsearch cannot have written."""
    wanted = select(WeightsRow).order_by(WeightsRow.created, WeightsRow.key)
    with Session(engine, expire_on_commit=False) as session:
        try:
            found = list(
                session.scalars(wanted if key is None else wanted.where(WeightsRow.key == key))
            )
        except ValueError as error:  # of the JSON
            raise damaged("A record of trained weights", cause(error)) from None
    for row in found:
        if not isinstance(row.made, dict):
            raise damaged(f"The record of trained weights {row.key}", "'made' is not an object")
    return found
