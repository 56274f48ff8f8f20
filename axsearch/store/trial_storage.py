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

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from axsearch.store.optuna_internals import (
    NOT_FOUND,
    PARAMS,
    STEPS,
    STUDIES,
    SYSTEM_ATTRS,
    TRIALS,
    USER_ATTRS,
    ExtensibleStorage,
    id_of_trial,
)
from axsearch.store.running_trial import RunningTrial
from axsearch.store.trial_rows import finish_trial, read_distribution, read_trials

log = logging.getLogger(__name__)

SHOWN_WITHIN = 0.5  # seconds


class TrialStorage(ExtensibleStorage):
    """An RDBStorage that buffers the values set on its running trials and writes them together.

    The values of a trial are buffered from the moment this object starts it until its state
    changes; the state and all that is not written yet then go into one transaction. Before that
    the buffer is written

    - with the first attribute or intermediate value after its parameters, so that samplers in
      other processes know what is running,
    - by the next write, or the next heartbeat, that comes 0.5 s after a value was set,
    - by :meth:`flush`.

    Reads through this object see the buffer. A write that fails leaves everything in it for the
    next one. Values that other processes set on a trial that runs here are seen when it is
    finished. Trials started elsewhere are written as Optuna does.
    """

    def __init__(self, url: str, **arguments: Any) -> None:
        self._running: dict[int, RunningTrial] = {}
        self._distributions: dict[tuple[int, str], BaseDistribution] = {}
        # Taken before a transaction begins, never within one: a thread that holds SQLite's lock
        # must not wait for a thread that waits for SQLite's lock.
        self._buffer_lock = threading.RLock()
        super().__init__(url, **arguments)

    def __getstate__(self) -> dict[Any, Any]:
        self.flush()
        state = super().__getstate__()
        del state["_buffer_lock"]
        return {**state, "_running": {}, "_distributions": {}}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self._buffer_lock = threading.RLock()
        super().__setstate__(state)

    def flush(self) -> None:
        """Write the buffers of all trials; drops those of trials that others ended or deleted."""
        with self._buffer_lock:
            for running in list(self._running.values()):
                with suppress(UpdateFinishedTrialError, KeyError):
                    self._flush(running)

    # Where trials begin and end

    def create_trial(self, study_id: int, template: FrozenTrial | None = None) -> FrozenTrial:
        """Begin a trial, whose values are buffered, or add one like the template."""
        trial = super().create_trial(study_id, template)
        if template is None:
            with self._buffer_lock:
                self._running[id_of_trial(trial)] = RunningTrial(study_id, trial)
        return trial

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Set the state, in one transaction with the trial's buffer."""
        with self._buffer_lock:
            running = self._running.get(trial_id)
            if running is None:
                if state.is_finished():
                    self._check_elsewhere(trial_id)
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
        with self.transaction() as session:
            study_id = session.scalar(
                select(TRIALS.c.study_id).where(TRIALS.c.trial_id == trial_id)
            )
            found = read_trials(session, [TRIALS.c.trial_id == trial_id], {})
        if study_id is not None and found and found[0].state == TrialState.RUNNING:
            self._running[trial_id] = RunningTrial(study_id, found[0])

    def delete_study(self, study_id: int) -> None:
        """Delete a study and drop the buffers of its trials."""
        with self._buffer_lock:
            for trial_id in [i for i, t in self._running.items() if t.study_id == study_id]:
                del self._running[trial_id]
            for key in list(self._distributions):  # others add to it without the lock
                if key[0] == study_id:
                    del self._distributions[key]
        super().delete_study(study_id)

    # What is set on them

    def set_param(
        self,
        trial_id: int,
        name: str,
        internal: float,
        distribution: BaseDistribution,
        earlier: BaseDistribution | None,
    ) -> None:
        """Set a parameter; ValueError if its distribution does not fit that of earlier trials."""
        with self._buffer_lock:
            running = self._running.get(trial_id)
            if running is not None:
                earlier = earlier or self._earlier(running.study_id, name)
                if earlier is not None:
                    check_distribution_compatibility(earlier, distribution)
                running.set_param(name, internal, distribution)
                self._distributions.setdefault((running.study_id, name), distribution)
                self._flush_old(running)
                return
        self._check_elsewhere(trial_id)
        super().set_param(trial_id, name, internal, distribution, earlier)

    def _earlier(self, study_id: int, name: str) -> BaseDistribution | None:
        known = self._distributions.get((study_id, name))
        if known is None:
            with self.transaction() as session:
                known = read_distribution(session, study_id, name)
            if known is not None:
                self._distributions[study_id, name] = known
        return known

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial."""
        if not self._keep(trial_id, lambda running: running.set_attr(USER_ATTRS, key, value)):
            super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set a system attribute of a trial: one of Optuna's or a sampler's."""
        if not self._keep(trial_id, lambda running: running.set_attr(SYSTEM_ATTRS, key, value)):
            super().set_trial_system_attr(trial_id, key, value)

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Set an intermediate value of a trial."""
        if not self._keep(trial_id, lambda running: running.set_step(step, intermediate_value)):
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def _keep(self, trial_id: int, set_on: Callable[[RunningTrial], None]) -> bool:
        with self._buffer_lock:
            running = self._running.get(trial_id)
            if running is None:
                self._check_elsewhere(trial_id)
                return False
            set_on(running)
            if running.hidden:
                self._flush(running)
            else:
                self._flush_old(running)
            return True

    def record_heartbeat(self, trial_id: int) -> None:
        """Record that a trial is alive, and write a buffer that has been unwritten for long."""
        self._beat(trial_id)
        with self._buffer_lock:
            running = self._running.get(trial_id)
            if running is not None:
                # In the heartbeats' thread nobody would see it; the trial's next write raises it.
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
        """Write a trial's buffer, and its end if it has ended, in one transaction."""
        try:
            with self.transaction() as session:
                self._check(session, running)
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
        """Write more with the end of a trial; for subclasses."""

    def _check_own(self, session: Session, running: RunningTrial) -> None:
        """Raise KeyError where another trial has the number of this one; for subclasses."""

    def _check_elsewhere(self, trial_id: int) -> None:
        """Called before something is set on a trial that does not run here; for subclasses."""

    def _check(self, session: Session, running: RunningTrial) -> None:
        # Locked before its rows are added: to lock it after them could end in a deadlock.
        trial_id = running.trial_id
        if session.get_bind().dialect.name == "sqlite":  # its lock is a write
            own = update(TRIALS).where(TRIALS.c.trial_id == trial_id)
            session.execute(own.values(trial_id=trial_id))
        found = session.scalar(
            select(TRIALS.c.state).where(TRIALS.c.trial_id == trial_id).with_for_update()
        )
        if found is None:
            raise KeyError(NOT_FOUND)
        self._check_own(session, running)
        self.check_trial_is_updatable(trial_id, found)

    def _insert(self, session: Session, running: RunningTrial) -> None:
        for table, rows in running.new_rows():
            session.execute(insert(table), rows)
        for table, key, value in running.changed():
            if table is STEPS:
                self.write_step(session, running.trial_id, key, value)
            else:
                self.write_attr(session, table, running.trial_id, key, value)

    def _write_one_by_one(self, running: RunningTrial) -> None:
        trial_id = running.trial_id
        with self.transaction() as session:
            self._check(session, running)
            known = select(PARAMS.c.param_name).where(PARAMS.c.trial_id == trial_id)
            set_already = set(session.scalars(known))
            for table, rows in running.new_rows():
                if table is PARAMS:  # of a parameter the first value stays
                    new = [row for row in rows if row["param_name"] not in set_already]
                    if new:
                        session.execute(insert(PARAMS), new)
            for (table, key), value in running.unwritten.items():
                if table is STEPS:
                    self.write_step(session, trial_id, key, value)
                elif table is not PARAMS:
                    self.write_attr(session, table, trial_id, key, json.loads(value))

    # Reading

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial with all its values, those in the buffer included."""
        running = dict(self._running)  # before its state is read, or the buffer could be missed
        with self.transaction() as session:
            found = read_trials(session, [TRIALS.c.trial_id == trial_id], running)
        if not found:
            raise KeyError(NOT_FOUND)
        return found[0]

    def find_trials(
        self, study_id: int, states: Container[TrialState] | None, known: set[int], after: int
    ) -> list[FrozenTrial]:
        """Trials of a study; raises KeyError where there is no such study."""
        conditions = [TRIALS.c.study_id == study_id]
        if states is not None:
            conditions.append(
                TRIALS.c.state.in_([state for state in TrialState if state in states])
            )
        if after > -1:
            older = [i for i in known if i <= after]
            conditions.append(or_(TRIALS.c.trial_id > after, TRIALS.c.trial_id.in_(older)))
        running = dict(self._running)
        with self.transaction() as session:
            trials = read_trials(session, conditions, running)
            own = select(STUDIES.c.study_id).where(STUDIES.c.study_id == study_id)
            if not trials and session.scalar(own) is None:
                raise KeyError(NOT_FOUND)
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
        return running.attrs(USER_ATTRS) if running else super().get_trial_user_attrs(trial_id)

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """The system attributes of a trial: Optuna's and samplers'."""
        running = self._running.get(trial_id)
        return running.attrs(SYSTEM_ATTRS) if running else super().get_trial_system_attrs(trial_id)
