"""Who works on what: the statements behind claims of trials and recipes, each in a transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

from optuna.trial import TrialState
from sqlalchemy import Table, delete, func, insert, select, update
from sqlalchemy.orm import Session

from axsearch.errors import AxsearchError
from axsearch.store.attributes import WORKER_ATTR
from axsearch.store.models import RecipeRow, TrialRow
from axsearch.store.optuna_internals import (
    HEARTBEATS,
    NOT_FOUND,
    STUDIES,
    SYSTEM_ATTRS,
    TRIALS,
)

ROWS = cast(Table, TrialRow.__table__)

RECIPE_RETRIES = 3
"""How often a recipe is tried again after its trial was lost."""


class BudgetFullError(AxsearchError):
    """A study has, or others are running, as many trials as are wanted."""


@dataclass(frozen=True)
class Assignment:
    """A worker's assignment: a study in which this many distinct recipes are to be finished."""

    study_id: int
    wanted: int
    worker: str


@dataclass(frozen=True)
class Claim:
    """The result of a trial's claim to a recipe.

    Attributes:
        state: ``own``: the trial has it; ``finished``: another trial finished it; ``held``:
            another trial runs or waits with it; ``given up``: it was lost too often.
        trial: the id of the trial that has it.
        attempt: how many trials have had it.
    """

    state: Literal["own", "finished", "held", "given up"]
    trial: int
    attempt: int


def lock_study(session: Session, study_id: int) -> None:
    """Lock a study, so that no one else begins a trial of it until the transaction ends.

    It must be the transaction's first statement. SQLite has no row locks and reads outside of
    transactions: there the first write is the lock.
    """
    own = STUDIES.c.study_id == study_id
    if session.get_bind().dialect.name == "sqlite":
        locked = session.execute(update(STUDIES).where(own).values(study_id=study_id))
        if locked.rowcount != 1:  # type: ignore[attr-defined]
            raise KeyError(NOT_FOUND)
    elif session.scalar(select(STUDIES.c.study_id).where(own).with_for_update()) is None:
        raise KeyError(NOT_FOUND)


def check_budget(session: Session, assignment: Assignment, *, begun: int = 0) -> None:
    """Raises BudgetFullError where enough is finished or running; needs the study's lock.

    ``begun`` trials, which the session has just begun, are left out.
    """
    # In this order: a trial that ends between the two is counted twice, and not left out.
    others = trials_in(session, assignment.study_id, TrialState.RUNNING) - begun
    if others + finished_recipes(session, assignment.study_id) >= assignment.wanted:
        raise BudgetFullError(f"{assignment.wanted} trials are finished or running.")


def finished_recipes(session: Session, study_id: int) -> int:
    """How many distinct recipes of a study are finished."""
    own = (ROWS.c.study_id == study_id, ROWS.c.finished)
    return session.scalar(select(func.count()).select_from(ROWS).where(*own)) or 0


def trials_in(session: Session, study_id: int, state: TrialState) -> int:
    """How many trials of a study are in a state."""
    own = (TRIALS.c.study_id == study_id, TRIALS.c.state == state)
    return session.scalar(select(func.count()).select_from(TRIALS).where(*own)) or 0


def begin(session: Session, trial_id: int, worker: str) -> None:
    """Record with the start of a trial who runs it, and that it is alive.

    It is done in the same transaction: a trial without a heartbeat would stay running for ever if
    its worker died.
    """
    if session.get_bind().dialect.name == "sqlite":  # it assigns the ids of deleted trials again
        session.execute(delete(HEARTBEATS).where(HEARTBEATS.c.trial_id == trial_id))
    session.execute(insert(HEARTBEATS).values(trial_id=trial_id))
    value = {"trial_id": trial_id, "key": WORKER_ATTR, "value_json": json.dumps(worker)}
    session.execute(insert(SYSTEM_ATTRS).values(value))


def beat(session: Session, trial_id: int) -> None:
    """Record that a trial is alive, if it exists: a row for a deleted one would stay."""
    own = HEARTBEATS.c.trial_id == trial_id
    session.execute(update(HEARTBEATS).where(own).values(heartbeat=func.now()))


def runs(session: Session, trial_id: int, worker: str) -> bool:
    """Whether a trial that this worker began, see :func:`begin`, is running."""
    found = session.execute(
        select(TRIALS.c.state, SYSTEM_ATTRS.c.value_json)
        .join(SYSTEM_ATTRS, SYSTEM_ATTRS.c.trial_id == TRIALS.c.trial_id)
        .where(TRIALS.c.trial_id == trial_id, SYSTEM_ATTRS.c.key == WORKER_ATTR)
    ).first()
    return (
        found is not None
        and found.state == TrialState.RUNNING
        and json.loads(found.value_json) == worker
    )


def start_waiting(session: Session, trial_id: int, assignment: Assignment) -> bool:
    """Start a trial that waits; false where another worker has started it."""
    waiting = (TRIALS.c.trial_id == trial_id, TRIALS.c.state == TrialState.WAITING)
    now = datetime.now(UTC).replace(tzinfo=None)
    started = update(TRIALS).where(*waiting).values(state=TrialState.RUNNING, datetime_start=now)
    if session.execute(started).rowcount != 1:  # type: ignore[attr-defined]
        return False
    begin(session, trial_id, assignment.worker)
    return True


def first_waiting(session: Session, study_id: int) -> int | None:
    """The id of the trial of a study that waits longest."""
    waiting = (TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.WAITING)
    return session.scalar(
        select(TRIALS.c.trial_id).where(*waiting).order_by(TRIALS.c.number).limit(1)
    )


def holder(session: Session, study_id: int, recipe: str) -> Claim | None:
    """Who has a recipe of a study; one whose trial failed or was deleted is free: state ``own``."""
    row = session.execute(
        select(ROWS.c.trial_id, ROWS.c.attempt, ROWS.c.finished, TRIALS.c.state)
        .join(TRIALS, TRIALS.c.trial_id == ROWS.c.trial_id, isouter=True)
        .where(ROWS.c.study_id == study_id, ROWS.c.recipe == recipe)
    ).one_or_none()
    if row is None:
        return None
    if row.finished:
        return Claim("finished", row.trial_id, row.attempt)
    if row.state in (TrialState.RUNNING, TrialState.WAITING):
        return Claim("held", row.trial_id, row.attempt)
    return Claim("given up" if row.attempt > RECIPE_RETRIES else "own", row.trial_id, row.attempt)


def take_over(
    session: Session, study_id: int, recipe: str, before: int, trial_id: int, attempt: int
) -> bool:
    """Give a recipe to another trial; false where someone else took it meanwhile."""
    own = (ROWS.c.study_id == study_id, ROWS.c.recipe == recipe, ROWS.c.trial_id == before)
    given = update(ROWS).where(*own).values(trial_id=trial_id, attempt=attempt)
    return bool(session.execute(given).rowcount)  # type: ignore[attr-defined]


def add_claim(session: Session, study_id: int, recipe: str, text: str, trial_id: int) -> None:
    """Give a new recipe to a trial; IntegrityError where another was first."""
    if session.get(RecipeRow, recipe) is None:
        session.add(RecipeRow(hash=recipe, json=text))
    session.flush()  # the recipe first: the claim refers to it
    session.execute(
        insert(ROWS).values(
            study_id=study_id,
            recipe=recipe,
            trial_id=trial_id,
            attempt=1,
            finished=False,
            feasible=False,
        )
    )


def end(session: Session, trial_id: int, columns: Mapping[str, Any]) -> None:
    """Write the result of a trial, if it has its recipe."""
    session.execute(update(ROWS).where(ROWS.c.trial_id == trial_id).values(**columns))


def recipe_of(session: Session, study_id: int, trial_id: int) -> tuple[str, int] | None:
    """The recipe that a trial has, and how many trials have had it."""
    own = (ROWS.c.study_id == study_id, ROWS.c.trial_id == trial_id)
    row = session.execute(select(ROWS.c.recipe, ROWS.c.attempt).where(*own)).one_or_none()
    return None if row is None else (row.recipe, row.attempt)


@dataclass(frozen=True)
class Running:
    """A running trial, and for how many seconds it has shown no sign of life."""

    trial_id: int
    number: int
    worker: str | None
    silent: float


def signs_of_life(session: Session, study_id: int) -> list[Running]:
    """The trials of a study that run, and how long ago their workers were heard of."""
    now = session.scalar(select(func.now()))
    assert now is not None
    found = session.execute(
        select(
            TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.datetime_start,
            HEARTBEATS.c.heartbeat, SYSTEM_ATTRS.c.value_json,
        )
        .join(HEARTBEATS, HEARTBEATS.c.trial_id == TRIALS.c.trial_id, isouter=True)
        .join(
            SYSTEM_ATTRS,
            (SYSTEM_ATTRS.c.trial_id == TRIALS.c.trial_id) & (SYSTEM_ATTRS.c.key == WORKER_ATTR),
            isouter=True,
        )
        .where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.RUNNING)
        .order_by(TRIALS.c.number)
    ).all()  # fmt: skip

    def silent(start: datetime | None, heartbeat: datetime | None) -> float:
        if heartbeat is not None:  # both by the database's clock
            gone: timedelta = now.replace(tzinfo=None) - heartbeat.replace(tzinfo=None)
        else:  # a trial that another program began
            gone = datetime.now(UTC).replace(tzinfo=None) - (start or datetime.min)
        return gone.total_seconds()

    return [
        Running(
            row.trial_id,
            row.number,
            None if row.value_json is None else str(json.loads(row.value_json)),
            silent(row.datetime_start, row.heartbeat),
        )
        for row in found
    ]
