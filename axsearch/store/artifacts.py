"""Artifacts of trials, in the database: small files that the dashboard shows and downloads.

Optuna's ``upload_artifact`` writes the attribute first and the file after it, in a folder that
other machines may not reach. A full disk or a killed process then leaves an entry without its file,
and the dashboard can no longer delete the study. Here both are rows, written in the transaction
that ends the trial.
"""

from __future__ import annotations

import hashlib
import io
import json
import mimetypes
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import TrialState
from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.orm import Session

from axsearch.store.models import ArtifactRow
from axsearch.store.optuna_internals import SYSTEM_ATTRS, TRIALS
from axsearch.store.outages import outlast

PREFIX = "artifacts:"
"""Prefix of the attributes under which Optuna stores the metadata of a trial's artifacts."""


class ArtifactStore:
    """Artifacts by id, in Optuna's protocol of artifact stores."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @outlast
    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact; raises ArtifactNotFound if there is none."""
        with Session(self.engine) as session:
            row = session.get(ArtifactRow, artifact_id)
            if row is None:
                raise ArtifactNotFound(f"There is no artifact {artifact_id}.")
            return io.BytesIO(row.data)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store an artifact."""
        self._keep(_row(artifact_id, content_body.read()))  # a second attempt would read nothing

    @outlast
    def _keep(self, row: ArtifactRow) -> None:
        with Session(self.engine) as session:
            session.merge(row)
            session.commit()

    @outlast
    def remove(self, artifact_id: str) -> None:
        """Remove an artifact, if it exists."""
        with Session(self.engine) as session:
            session.execute(delete(ArtifactRow).where(ArtifactRow.id == artifact_id))
            session.commit()


def attach(session: Session, trial_id: int, name: str, data: bytes) -> None:
    """Write a trial's file and the attribute that names it, in the session's transaction."""
    row = _row(str(uuid.uuid4()), data)
    session.add(row)
    kind, encoding = mimetypes.guess_type(name)
    meta = {
        "artifact_id": row.id,
        "filename": name,
        "mimetype": kind or "application/octet-stream",
        "encoding": encoding,
    }
    session.execute(
        insert(SYSTEM_ATTRS).values(
            trial_id=trial_id,
            key=PREFIX + row.id,
            # Twice, as Optuna does: it writes attributes as JSON, and this one is a JSON string.
            value_json=json.dumps(json.dumps(meta)),
        )
    )


@outlast
def attach_later(engine: Engine, files: Mapping[int, Mapping[str, bytes]]) -> None:
    """Write files of trials that have ended, by name and Optuna's id of the trial."""
    with Session(engine) as session:
        for trial_id, own in files.items():
            for name, data in own.items():
                attach(session, trial_id, name, data)
        session.commit()


@outlast
def with_files(engine: Engine, study_id: int) -> set[int]:
    """The numbers of trials that have artifacts, or had some that were removed in the dashboard."""
    wanted = (
        select(TRIALS.c.number)
        .join(SYSTEM_ATTRS, TRIALS.c.trial_id == SYSTEM_ATTRS.c.trial_id)
        .where(TRIALS.c.study_id == study_id, SYSTEM_ATTRS.c.key.startswith(PREFIX))
        .distinct()
    )
    with Session(engine) as session:
        return set(session.scalars(wanted))


@dataclass(frozen=True)
class Attached:
    """An artifact of a trial, read by :func:`attached`; ``whole`` if its checksum is right."""

    trial: int
    name: str
    id: str
    whole: bool
    data: bytes = field(repr=False)


def attached(engine: Engine, study_id: int) -> Iterator[Attached]:
    """Every artifact of a study's complete trials, with its checksum verified."""
    wanted = (
        select(TRIALS.c.number, SYSTEM_ATTRS.c.value_json, ArtifactRow.sha256, ArtifactRow.data)
        .join(TRIALS, TRIALS.c.trial_id == SYSTEM_ATTRS.c.trial_id)
        .join(ArtifactRow, SYSTEM_ATTRS.c.key == PREFIX + ArtifactRow.id, isouter=True)
        .where(
            TRIALS.c.study_id == study_id,
            TRIALS.c.state == TrialState.COMPLETE,
            SYSTEM_ATTRS.c.key.startswith(PREFIX),
        )
        .order_by(TRIALS.c.number)
    )
    with Session(engine) as session:
        for number, text, checksum, data in session.execute(wanted):
            meta = json.loads(json.loads(text))
            if meta is None:  # removed in the dashboard
                continue
            whole = data is not None and hashlib.sha256(data).hexdigest() == checksum
            yield Attached(number, meta["filename"], meta["artifact_id"], whole, data or b"")


def _row(artifact_id: str, data: bytes) -> ArtifactRow:
    checksum = hashlib.sha256(data).hexdigest()
    return ArtifactRow(id=artifact_id, sha256=checksum, size_bytes=len(data), data=data)
