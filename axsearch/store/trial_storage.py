"""Optuna's storage, writing a trial in few transactions.

Optuna's own RDBStorage commits once for each parameter and attribute, each after several SELECTs.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    json_to_distribution,
)
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage

# axsearch pins optuna below 6: its tables, its sessions and the methods that its cache calls are
# private, but they are the only place where writes can be joined without a fork of it.
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from axsearch.store.running_trial import PARAM, STEP, SYSTEM_ATTR, USER_ATTR, RunningTrial
from axsearch.store.trial_rows import TRIAL, finish_trial, read_distribution, read_trials

log = logging.getLogger(__name__)

SHOWN_WITHIN = 0.5  # seconds


class TrialStorage(RDBStorage):
    """An RDBStorage that keeps what is set on the trials it runs and writes it at once.

    A trial is kept from the moment this object starts it until its state changes; its state and
    all that is not written yet then go into one transaction. Before that it is written

    - with the first attribute or intermediate value after its parameters, so that samplers in
      other processes know what is running,
    - by the next write, or the next heartbeat, that comes 0.5 s after something was kept,
    - by :meth:`flush`.

    Reads through this object see what is kept. A write that fails keeps everything for the next
    one. What other processes set on a trial that runs here is seen when it is finished. Trials
    started elsewhere are written as Optuna does.
    """

    def __init__(self, url: str, **arguments: Any) -> None:
        self._running: dict[int, RunningTrial] = {}
        self._distributions: dict[tuple[int, str], BaseDistribution] = {}
        # Taken before a transaction begins, never within one: a thread that holds SQLite's lock
        # must not wait for a thread that waits for SQLite's lock.
        self._kept = threading.RLock()
        super().__init__(url, **arguments)

    def __getstate__(self) -> dict[Any, Any]:
        self.flush()
        state = super().__getstate__()
        del state["_kept"]
        return {**state, "_running": {}, "_distributions": {}}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self._kept = threading.RLock()
        super().__setstate__(state)

    def flush(self) -> None:
        """Write all that is kept; of trials that others finished or deleted it is dropped."""
        with self._kept:
            for running in list(self._running.values()):
                with suppress(UpdateFinishedTrialError, KeyError):
                    self._flush(running)

    # Where trials begin and end

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        trial = super()._create_new_trial(study_id, template_trial)
        if template_trial is None:
            with self._kept:
                self._running[trial._trial_id] = RunningTrial(study_id, trial)
        return trial

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Set the state, in one transaction with all that is kept of the trial."""
        with self._kept:
            running = self._running.get(trial_id)
            if running is None:
                taken = super().set_trial_state_values(trial_id, state, values)
                if taken and state == TrialState.RUNNING:
                    self._take(trial_id)
                return taken
            if not state.is_finished():
                self._flush(running)
                self._running.pop(trial_id, None)
                return super().set_trial_state_values(trial_id, state, values)
            done = self._write(running, state, values)
            self._running.pop(trial_id, None)
            return done

    def _take(self, trial_id: int) -> None:
        with _create_scoped_session(self.scoped_session) as session:
            study_id = session.scalar(select(TRIAL.study_id).where(TRIAL.trial_id == trial_id))
            found = read_trials(session, [TRIAL.trial_id == trial_id], {})
        if study_id is not None and found and found[0].state == TrialState.RUNNING:
            self._running[trial_id] = RunningTrial(study_id, found[0])

    def delete_study(self, study_id: int) -> None:
        """Delete a study and forget what is kept of its trials."""
        with self._kept:
            for trial_id in [i for i, t in self._running.items() if t.study_id == study_id]:
                del self._running[trial_id]
            for key in list(self._distributions):  # others add to it without the lock
                if key[0] == study_id:
                    del self._distributions[key]
        super().delete_study(study_id)

    # What is set on them

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        with self._kept:
            running = self._running.get(trial_id)
            if running is not None:
                earlier = previous_distribution or self._earlier(running.study_id, param_name)
                if earlier is not None:
                    check_distribution_compatibility(earlier, distribution)
                running.set_param(param_name, param_value_internal, distribution)
                self._distributions.setdefault((running.study_id, param_name), distribution)
                self._flush_old(running)
                return
        super()._set_trial_param(
            trial_id, param_name, param_value_internal, distribution, previous_distribution
        )

    def _earlier(self, study_id: int, name: str) -> BaseDistribution | None:
        known = self._distributions.get((study_id, name))
        if known is None:
            with _create_scoped_session(self.scoped_session) as session:
                known = read_distribution(session, study_id, name)
            if known is not None:
                self._distributions[study_id, name] = known
        return known

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial."""
        if not self._keep(trial_id, lambda running: running.set_attr(USER_ATTR, key, value)):
            super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial that is Optuna's or a sampler's."""
        if not self._keep(trial_id, lambda running: running.set_attr(SYSTEM_ATTR, key, value)):
            super().set_trial_system_attr(trial_id, key, value)

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Set what an objective is at a step of a trial."""
        if not self._keep(trial_id, lambda running: running.set_step(step, intermediate_value)):
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def _keep(self, trial_id: int, set_on: Callable[[RunningTrial], None]) -> bool:
        with self._kept:
            running = self._running.get(trial_id)
            if running is None:
                return False
            set_on(running)
            if running.hidden:
                self._flush(running)
            else:
                self._flush_old(running)
            return True

    def record_heartbeat(self, trial_id: int) -> None:
        """Say that a trial is alive, and write what has been kept of it for long."""
        self._beat(trial_id)
        with self._kept:
            running = self._running.get(trial_id)
            if running is not None:
                # No one hears of it in the heartbeats' thread; the trial's next write raises it.
                with suppress(UpdateFinishedTrialError, KeyError):
                    self._flush_old(running)

    def _beat(self, trial_id: int) -> None:
        super().record_heartbeat(trial_id)

    # Writing

    def _flush_old(self, running: RunningTrial) -> None:
        if running.age > SHOWN_WITHIN:
            try:
                self._flush(running)
            except StorageInternalError as error:
                # Nothing is lost: the write that must be done, with the trial's end, comes later.
                log.debug("Trial %d is not written yet: %s", running.trial_id, error)

    def _flush(self, running: RunningTrial) -> None:
        if running.unwritten:
            self._write(running)

    def _write(
        self,
        running: RunningTrial,
        state: TrialState = TrialState.RUNNING,
        values: Sequence[float] | None = None,
    ) -> bool:
        """Write what is kept of a trial, and how it ended if it did, in one transaction."""
        try:
            with _create_scoped_session(self.scoped_session) as session:
                self._check(session, running.trial_id)
                self._insert(session, running)
                if state.is_finished():
                    finish_trial(session, running.trial_id, state, values or ())
                    self._end(session, running)
        except (UpdateFinishedTrialError, KeyError):  # another process finished or deleted it
            self._running.pop(running.trial_id, None)
            raise
        except IntegrityError:  # another process set the same on it
            if not running.unwritten:
                return False
            self._write_one_by_one(running)
            running.mark_written()
            return not state.is_finished() or self._write(running, state, values)
        running.mark_written()
        return True

    def _end(self, session: Session, running: RunningTrial) -> None:
        """What else is to be written with the end of a trial."""

    def _check(self, session: Session, trial_id: int) -> None:
        # Locked before its rows are added: to lock it after them could end in a deadlock.
        if session.get_bind().dialect.name == "sqlite":  # its lock is a write
            own = update(models.TrialModel.__table__).where(TRIAL.trial_id == trial_id)
            session.execute(own.values(trial_id=trial_id))
        found = session.scalar(
            select(TRIAL.state).where(TRIAL.trial_id == trial_id).with_for_update()
        )
        if found is None:
            raise KeyError(models.NOT_FOUND_MSG)
        self.check_trial_is_updatable(trial_id, found)

    def _insert(self, session: Session, running: RunningTrial) -> None:
        for kind, rows in running.new_rows():
            session.execute(insert(kind.__table__), rows)
        for kind, key, value in running.changed():
            if kind is STEP:
                self._set_trial_intermediate_value_without_commit(
                    session, running.trial_id, key, value
                )
            else:
                self._set_trial_attr_without_commit(session, kind, running.trial_id, key, value)

    def _write_one_by_one(self, running: RunningTrial) -> None:
        trial_id = running.trial_id
        for (kind, key), value in running.unwritten.items():
            if kind is PARAM:
                internal, text = value
                distribution = json_to_distribution(text)
                super()._set_trial_param(trial_id, key, internal, distribution, distribution)
            elif kind is STEP:
                super().set_trial_intermediate_value(trial_id, key, value)
            elif kind is USER_ATTR:
                super().set_trial_user_attr(trial_id, key, json.loads(value))
            else:
                super().set_trial_system_attr(trial_id, key, json.loads(value))

    # Reading

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial with all that is set on it."""
        running = dict(self._running)  # before its state is read, or what is kept could be missed
        with _create_scoped_session(self.scoped_session) as session:
            found = read_trials(session, [TRIAL.trial_id == trial_id], running)
        if not found:
            raise KeyError(models.NOT_FOUND_MSG)
        return found[0]

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        conditions = [TRIAL.study_id == study_id]
        if states is not None:
            conditions.append(TRIAL.state.in_([state for state in TrialState if state in states]))
        if trial_id_greater_than > -1:
            older = [i for i in included_trial_ids if i <= trial_id_greater_than]
            conditions.append(
                or_(TRIAL.trial_id > trial_id_greater_than, TRIAL.trial_id.in_(older))
            )
        running = dict(self._running)
        with _create_scoped_session(self.scoped_session) as session:
            trials = read_trials(session, conditions, running)
            if not trials:
                models.StudyModel.find_or_raise_by_id(study_id, session)
        for found in trials:
            for name, distribution in found.distributions.items():
                self._distributions.setdefault((study_id, name), distribution)
        return trials

    def get_trial_param(self, trial_id: int, param_name: str) -> float:
        """A parameter as the database holds it."""
        running = self._running.get(trial_id)
        if running is None:
            return super().get_trial_param(trial_id, param_name)
        return running.param(param_name)

    def get_trial_user_attrs(self, trial_id: int) -> dict[str, Any]:
        """The attributes of a trial."""
        running = self._running.get(trial_id)
        return running.attrs(USER_ATTR) if running else super().get_trial_user_attrs(trial_id)

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """The attributes of a trial that are Optuna's or a sampler's."""
        running = self._running.get(trial_id)
        return running.attrs(SYSTEM_ATTR) if running else super().get_trial_system_attrs(trial_id)
