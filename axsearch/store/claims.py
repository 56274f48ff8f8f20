"""Who works on what: the statements behind claims of trials and recipes, each in a transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from optuna.trial import TrialState
from sqlalchemy import Table, func, insert, select, update
from sqlalchemy.orm import Session

from axsearch.errors import AxsearchError
from axsearch.store.attributes import WORKER_ATTR
from axsearch.store.heartbeats import begin
from axsearch.store.identity import GoneError, check_study
from axsearch.store.models import RecipeRow, TrialRow
from axsearch.store.optuna_internals import STUDIES, SYSTEM_ATTRS, TRIALS

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
    identity: str | None = None
    """Of the study, see :mod:`axsearch.store.identity`; None takes the study as it is."""


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


def lock_study(session: Session, study_id: int, identity: str | None = None) -> None:
    """Lock a study, so that no one else begins a trial of it until the transaction ends.

    It must be the transaction's first statement. SQLite has no row locks and reads outside of
    transactions: there the first write is the lock. Raises GoneError where there is no such study,
    or where it is not the one with this identity.
    """
    own = STUDIES.c.study_id == study_id
    if session.get_bind().dialect.name == "sqlite":
        locked = session.execute(update(STUDIES).where(own).values(study_id=study_id))
        if locked.rowcount != 1:  # type: ignore[attr-defined]
            raise GoneError
    elif session.scalar(select(STUDIES.c.study_id).where(own).with_for_update()) is None:
        raise GoneError
    check_study(session, study_id, identity)


def check_budget(session: Session, assignment: Assignment, *, begun: int = 0) -> None:
    """Raises BudgetFullError where enough is finished or running; needs the study's lock.

    ``begun`` trials, which the session has just begun, are left out.
    """
    # In this order: a trial that ends between the two is counted twice, and not left out.
    others = trials_in(session, assignment.study_id, TrialState.RUNNING) - begun
    if others + finished_recipes(session, assignment.study_id) >= assignment.wanted:
        raise BudgetFullError(f"{assignment.wanted} trials are finished or running.")


def finished_recipes(session: Session, study_id: int) -> int:
    """How many distinct recipes of a study are finished; recovered models are part of no budget."""
    own = (ROWS.c.study_id == study_id, ROWS.c.finished, ROWS.c.recovered_from.is_(None))
    return session.scalar(select(func.count()).select_from(ROWS).where(*own)) or 0


def trials_in(session: Session, study_id: int, state: TrialState) -> int:
    """How many trials of a study are in a state."""
    own = (TRIALS.c.study_id == study_id, TRIALS.c.state == state)
    return session.scalar(select(func.count()).select_from(TRIALS).where(*own)) or 0


def runs(session: Session, trial_id: int, worker: str) -> bool:
    """Whether a trial that this worker began is running."""
    state = session.scalar(select(TRIALS.c.state).where(TRIALS.c.trial_id == trial_id))
    return state == TrialState.RUNNING and _began(session, trial_id) == worker


def _began(session: Session, trial_id: int) -> str | None:
    """The worker that began a trial."""
    own = SYSTEM_ATTRS.c.trial_id == trial_id, SYSTEM_ATTRS.c.key == WORKER_ATTR
    text = session.scalar(select(SYSTEM_ATTRS.c.value_json).where(*own))
    return None if text is None else str(json.loads(text))


def start_waiting(session: Session, trial_id: int, assignment: Assignment) -> bool:
    """Start a trial that waits; false where another worker has started it."""
    waiting = (
        TRIALS.c.trial_id == trial_id,
        TRIALS.c.study_id == assignment.study_id,
        TRIALS.c.state == TrialState.WAITING,
    )
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


def end(session: Session, study_id: int, trial_id: int, columns: Mapping[str, Any]) -> bool:
    """Write the result of a trial; false where it has no recipe."""
    own = ROWS.c.study_id == study_id, ROWS.c.trial_id == trial_id
    return bool(session.execute(update(ROWS).where(*own).values(**columns)).rowcount)  # type: ignore[attr-defined]


def fail(session: Session, study_id: int, trial_id: int, worker: str | None) -> bool:
    """Fail a running trial of this worker; false where it has ended or another worker runs it."""
    if _began(session, trial_id) != worker:
        return False
    own = TRIALS.c.trial_id == trial_id, TRIALS.c.study_id == study_id
    now = datetime.now(UTC).replace(tzinfo=None)
    failed = update(TRIALS).where(*own, TRIALS.c.state == TrialState.RUNNING)
    ended = failed.values(state=TrialState.FAIL, datetime_complete=now)
    return session.execute(ended).rowcount == 1  # type: ignore[attr-defined, no-any-return]


def recipe_of(session: Session, study_id: int, trial_id: int) -> tuple[str, int] | None:
    """The recipe that a trial has, and how many trials have had it."""
    own = (ROWS.c.study_id == study_id, ROWS.c.trial_id == trial_id)
    row = session.execute(select(ROWS.c.recipe, ROWS.c.attempt).where(*own)).one_or_none()
    return None if row is None else (row.recipe, row.attempt)
