"""Which study a study's number stands for: numbers are given again, random identities are not.

SQLite gives the number of a deleted study, and those of its trials, to the next one; a database
that was restored from a copy gives the numbers again that it gave since the copy was made. A worker
that was evaluating meanwhile must not write to what has those numbers now.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Table, exists, func, insert, select
from sqlalchemy.orm import Session

from axsearch.errors import AxsearchError
from axsearch.store.attributes import IDENTITY_ATTR, WORKER_ATTR
from axsearch.store.optuna_internals import (
    STUDIES,
    STUDY_SYSTEM_ATTRS,
    SYSTEM_ATTRS,
    TRIALS,
)


class GoneError(AxsearchError, KeyError):
    """What a worker works on is no longer in the database, or something else has its number.

    A KeyError too, as Optuna's storages raise for a study or a trial that is not there.
    """

    __str__ = Exception.__str__  # a KeyError puts its message in quotation marks

    def __init__(self) -> None:
        super().__init__("The study was deleted, or its database was replaced by a copy.")


def identity_of(session: Session, study_id: int) -> str | None:
    """The identity of the study that has a number; None if it has none yet, or is not there."""
    own = STUDY_SYSTEM_ATTRS.c.study_id == study_id
    named = STUDY_SYSTEM_ATTRS.c.key == IDENTITY_ATTR
    text = session.scalar(select(STUDY_SYSTEM_ATTRS.c.value_json).where(own, named))
    return None if text is None else str(json.loads(text))


def identity_of_name(session: Session, name: str) -> str | None:
    """The same of the study that has a name."""
    study_id = session.scalar(select(STUDIES.c.study_id).where(STUDIES.c.study_name == name))
    return None if study_id is None else identity_of(session, study_id)


def identify(session: Session, study_id: int) -> str:
    """The identity of a study, which gets one if it has none; needs the study's lock."""
    known = identity_of(session, study_id)
    if known is not None:
        return known
    made = secrets.token_hex(16)
    row = {"study_id": study_id, "key": IDENTITY_ATTR, "value_json": json.dumps(made)}
    session.execute(insert(STUDY_SYSTEM_ATTRS).values(row))
    return made


def check_study(session: Session, study_id: int, identity: str | None) -> None:
    """Raises GoneError where a number stands for another study; None is any."""
    if identity is not None and identity_of(session, study_id) != identity:
        raise GoneError


def is_own(trial_id: int, worker: str, identity: str | None) -> ColumnElement[bool]:
    """The condition that a trial is the one that this worker began, of the study it began it in."""
    began = exists().where(
        SYSTEM_ATTRS.c.trial_id == trial_id,
        SYSTEM_ATTRS.c.key == WORKER_ATTR,
        SYSTEM_ATTRS.c.value_json == json.dumps(worker),
    )
    if identity is None:
        return began
    return began & exists().where(
        TRIALS.c.trial_id == trial_id,
        STUDY_SYSTEM_ATTRS.c.study_id == TRIALS.c.study_id,
        STUDY_SYSTEM_ATTRS.c.key == IDENTITY_ATTR,
        STUDY_SYSTEM_ATTRS.c.value_json == json.dumps(identity),
    )


def check_own(session: Session, trial_id: int, worker: str, identity: str | None) -> None:
    """Raises GoneError where a trial's number stands for another trial."""
    if not session.scalar(select(is_own(trial_id, worker, identity))):
        raise GoneError


def check_whole(session: Session, trial_id: int, rows: Sequence[tuple[Table, int]]) -> None:
    """Raises GoneError where a trial has lost some of so many rows in each of these tables.

    That is a copy of the database from before they were written.
    """
    counts = [
        select(func.count()).select_from(table).where(table.c.trial_id == trial_id)
        for table, _ in rows
    ]
    found = session.execute(select(*(count.scalar_subquery() for count in counts))).one()
    if any(there < known for there, (_, known) in zip(found, rows, strict=True)):
        raise GoneError
