"""The storage of a worker that writes to its own study and its own trials only.

See :mod:`axsearch.store.identity` for what else could have their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from sqlalchemy import delete, exists
from sqlalchemy.orm import Session

from axsearch.store import claims, heartbeats
from axsearch.store.claims import Assignment
from axsearch.store.identity import check_own, identify, identity_of
from axsearch.store.models import StudyRow, TrialRow
from axsearch.store.optuna_internals import STUDIES
from axsearch.store.outages import outlast
from axsearch.store.running_trial import RunningTrial
from axsearch.store.trial_storage import TrialStorage


class IdentifiedStorage(TrialStorage):
    """A TrialStorage that knows its worker's study, and its trials, by more than their numbers."""

    def __init__(self, url: str, **arguments: Any) -> None:
        self._assignment: Assignment | None = None
        super().__init__(url, **arguments)

    def work_on(self, assignment: Assignment) -> None:
        """From now on claim trials for this; BudgetFullError then ends :meth:`Study.ask`.

        Raises GoneError where the study is no longer the one that the assignment is about; from now
        on this is also raised by whatever would write to another study or trial.
        """
        self._assignment = replace(assignment, identity=self._recognise(assignment))

    @outlast
    def _recognise(self, assignment: Assignment) -> str:
        known = assignment.identity or self._identity(assignment.study_id)
        with self.transaction() as session:
            claims.lock_study(session, assignment.study_id, known)
            return identify(session, assignment.study_id)

    def _identity(self, study_id: int) -> str | None:
        assignment = self._assignment
        same = assignment is not None and assignment.study_id == study_id
        return assignment.identity if assignment is not None and same else None

    def _check_own(self, session: Session, running: RunningTrial) -> None:
        if running.worker is not None:
            identity = self._identity(running.study_id)
            check_own(session, running.trial_id, running.worker, identity)

    def _check_elsewhere(self, trial_id: int) -> None:
        if self._assignment is not None:  # a worker sets something on a trial that it has lost
            raise UpdateFinishedTrialError(f"Trial {trial_id} does not run in this worker.")

    def _beat(self, trial_id: int) -> None:
        running = self._running.get(trial_id)
        if running is None or running.worker is None:
            return
        with self.transaction() as session:
            identity = self._identity(running.study_id)
            heartbeats.beat(session, trial_id, running.worker, identity)

    # Studies are made and deleted

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """Create a study; SQLite reuses the id of a deleted one, whose rows are removed first."""
        study_id = super().create_new_study(directions, study_name)
        self._begin_study(study_id)
        return study_id

    @outlast
    def _begin_study(self, study_id: int) -> None:
        with self.transaction() as session:
            claims.lock_study(session, study_id)
            if identity_of(session, study_id) is None:  # else others work on it already
                for rows in (TrialRow, StudyRow):
                    session.execute(delete(rows).where(rows.study_id == study_id))
                identify(session, study_id)

    def delete_study(self, study_id: int) -> None:
        """Delete a study with axsearch's rows about it; evaluations stay."""
        super().delete_study(study_id)
        self._forget(study_id)

    @outlast
    def _forget(self, study_id: int) -> None:
        kept = exists().where(STUDIES.c.study_id == study_id)  # a new one may have the number
        with self.transaction() as session:
            for rows in (TrialRow, StudyRow):
                session.execute(delete(rows).where(rows.study_id == study_id, ~kept))
