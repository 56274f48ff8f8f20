"""The storage of workers: exclusive claims, ends that are written once, lost trials retried.

Optuna's own way has gaps: a heartbeat that cannot be written ends the heartbeats, a trial that was
killed before the first of them stays running, on SQLite two workers can start the same waiting
trial, and its retry callback copies the attributes of the lost trial.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from axsearch.space.recipe import Recipe
from axsearch.store import claims, heartbeats, recovered
from axsearch.store.artifacts import attach
from axsearch.store.attributes import (
    FIXED_ATTR,
    GIVEN_UP_ATTR,
    INTERRUPTED_ATTR,
    RETRY_ATTR,
    WORKER_ATTR,
)
from axsearch.store.claims import RECIPE_RETRIES, Assignment, Claim
from axsearch.store.heartbeats import Running, Watch
from axsearch.store.identified_storage import IdentifiedStorage
from axsearch.store.identity import GoneError, check_study, check_whole
from axsearch.store.optuna_internals import TRIALS, USER_ATTRS, id_of_trial
from axsearch.store.outages import attempts, outlast
from axsearch.store.running_trial import RunningTrial
from axsearch.store.trial_rows import AT_ONCE, read_trials

GivenBack = Literal["waiting", "given up", "ended"]


class WorkStorage(IdentifiedStorage):
    """An IdentifiedStorage for workers, which also continues after an outage of the database.

    Args:
        url: of the database.
        grace_period: seconds without a heartbeat after which a running trial is lost.
    """

    def __init__(self, url: str, *, grace_period: float, **arguments: Any) -> None:
        self.grace = grace_period
        self._ends: dict[int, tuple[Mapping[str, Any], Mapping[str, bytes]]] = {}
        self._claimed: set[int] = set()  # trials that run here and have their recipes
        self._watch = Watch(grace_period)
        super().__init__(url, **arguments)

    # Trials begin

    def create_trial(self, study_id: int, template: FrozenTrial | None = None) -> FrozenTrial:
        """Begin a trial where the budget has room for it, or add one like the template."""
        assignment = self._assignment
        if template is not None or assignment is None or assignment.study_id != study_id:
            return super().create_trial(study_id, template)
        for attempt in attempts():
            with attempt:
                # If the connection broke after the first attempt was written, it is found here.
                again = attempt.retry_state.attempt_number > 1
                trial = (self._mine(assignment) if again else None) or self._begin_new(assignment)
        with self._buffer_lock:
            self._running[id_of_trial(trial)] = RunningTrial(study_id, trial)
        return trial

    def _begin_new(self, assignment: Assignment) -> FrozenTrial:
        with self.transaction() as session:
            claims.lock_study(session, assignment.study_id, assignment.identity)
            row = self.insert_trial(session, assignment.study_id, None)
            if row.number >= assignment.wanted:  # else there are fewer of all trials
                claims.check_budget(session, assignment, begun=1)
            heartbeats.begin(session, row.trial_id, assignment.worker)
            return FrozenTrial(  # as it would be read, in five statements fewer
                number=row.number,
                state=TrialState.RUNNING,
                value=None,
                datetime_start=row.began,
                datetime_complete=None,
                params={},
                distributions={},
                user_attrs={},
                system_attrs={WORKER_ATTR: assignment.worker},
                intermediate_values={},
                trial_id=row.trial_id,
            )

    def _mine(self, assignment: Assignment) -> FrozenTrial | None:
        """A trial that this worker began without knowing."""
        with self.transaction() as session:
            check_study(session, assignment.study_id, assignment.identity)
            mine = [
                found.trial_id
                for found in heartbeats.signs_of_life(session, assignment.study_id)
                if found.worker == assignment.worker and found.trial_id not in self._running
            ]
            found = read_trials(session, [TRIALS.c.trial_id.in_(mine)], {}) if mine else []
        return found[0] if found else None

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Set the state; a waiting trial goes to one worker only, and an end is written once."""
        assignment = self._assignment
        for attempt in attempts():
            with attempt:
                again = attempt.retry_state.attempt_number > 1
                if state == TrialState.RUNNING and assignment is not None:
                    done = self._start(trial_id, assignment, again)
                    continue
                try:
                    done = super().set_trial_state_values(trial_id, state, values)
                except UpdateFinishedTrialError:
                    # If the connection broke after the first attempt was written, all is well.
                    if not (again and self._ended_so(trial_id, state, values)):
                        raise
                    done = True
        if state.is_finished():
            self._ends.pop(trial_id, None)
            self._claimed.discard(trial_id)
        return done

    def _start(self, trial_id: int, assignment: Assignment, again: bool) -> bool:
        with self.transaction() as session:
            claims.lock_study(session, assignment.study_id, assignment.identity)
            # If the connection broke after the first attempt was written, it runs here already.
            started = again and claims.runs(session, trial_id, assignment.worker)
            if not started:
                claims.check_budget(session, assignment)
                started = claims.start_waiting(session, trial_id, assignment)
        if started:
            with self._buffer_lock:
                self._take(trial_id)
        return started

    def _ended_so(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> bool:
        stored = self.get_trial(trial_id)
        return stored.state == state and list(stored.values or ()) == list(values or ())

    # Recipes are claimed

    @outlast
    def claim(self, trial_id: int, recipe: Recipe) -> Claim:
        """Claim a recipe for a trial that runs here.

        Raises UpdateFinishedTrialError where another worker ended it, GoneError or another KeyError
        where it is no longer there.
        """
        running = self._running.get(trial_id)
        if running is None:
            raise UpdateFinishedTrialError(f"Trial {trial_id} does not run in this worker.")
        study_id = running.study_id
        while True:
            try:
                with self.transaction() as session:
                    self._check(session, running)
                    found = claims.holder(session, study_id, recipe.hash)
                    if found is None:
                        claims.add_claim(session, study_id, recipe.hash, recipe.to_json(), trial_id)
                        mine = Claim("own", trial_id, 1)
                    elif found.trial == trial_id:
                        mine = Claim("own", trial_id, found.attempt)
                    elif found.state == "own":
                        if not claims.take_over(
                            session, study_id, recipe.hash, found.trial, trial_id,
                            found.attempt + 1,
                        ):  # fmt: skip
                            continue
                        mine = Claim("own", trial_id, found.attempt + 1)
                    else:
                        mine = found
            except IntegrityError:  # another worker was first, with this recipe or this claim
                continue
            except (UpdateFinishedTrialError, KeyError):  # others ended it, or it is gone
                self._running.pop(trial_id, None)
                raise
            if mine.state == "own":
                self._claimed.add(trial_id)
            return mine

    @outlast
    def enqueue(self, study_id: int, recipe: Recipe, params: Mapping[str, Any]) -> Claim:
        """Add a waiting trial with these parameters, if no trial of the study has the recipe.

        The state of the claim is ``own`` if it waits now, else the reason why not.
        """
        try:
            with self.transaction() as session:
                claims.lock_study(session, study_id, self._identity(study_id))
                found = claims.holder(session, study_id, recipe.hash)
                if found is not None and found.state != "own":
                    return found
                trial_id = self.insert_trial(session, study_id, _waiting(params)).trial_id
                attempt = 1 if found is None else found.attempt + 1
                if found is None:
                    text = recipe.to_json()
                    claims.add_claim(session, study_id, recipe.hash, text, trial_id)
                else:
                    claims.take_over(session, study_id, recipe.hash, found.trial, trial_id, attempt)
                return Claim("own", trial_id, attempt)
        except IntegrityError:  # the recipe was just written for another study
            return self.enqueue(study_id, recipe, params)

    def add_recovered(
        self,
        study_id: int,
        recipe: Recipe,
        template: FrozenTrial,
        columns: Mapping[str, Any],
        files: Mapping[str, bytes],
    ) -> tuple[int, bool]:
        """Add a recovered model as a complete trial, see :func:`axsearch.store.recovered.add`."""
        model = recovered.Recovered(recipe, template, columns, files)
        return recovered.add(self, study_id, self._identity(study_id), model)

    # Trials end

    def at_end(self, trial_id: int, columns: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Set what to write in one transaction with the trial's end.

        Args:
            trial_id: of a trial that runs here.
            columns: of its recipe's row, see :class:`axsearch.store.models.TrialRow`.
            files: its artifacts, by name.
        """
        self._ends[trial_id] = columns, files

    def _end(self, session: Session, running: RunningTrial) -> None:
        columns, files = self._ends.get(running.trial_id, ({}, {}))
        check_whole(session, running.trial_id, running.rows)
        if columns:
            ended = claims.end(session, running.study_id, running.trial_id, columns)
            if running.trial_id in self._claimed and not ended:
                raise GoneError
        for name, data in files.items():
            attach(session, running.trial_id, name, data)

    @outlast
    def give_back(self, study_id: int, trial_id: int, *, lost: Running | None = None) -> GivenBack:
        """Fail a trial that did not come to its end, and let its recipe be tried again.

        A recipe whose trials were lost (their workers died) more than three times is given up.
        Returns whether another trial waits with the recipe now, the recipe was given up, or
        neither: the trial had no recipe yet, or had ended.

        Args:
            study_id: of the study.
            trial_id: of a trial that runs here, or that is ``lost``.
            lost: the trial as it was when its worker was found dead; None if it runs here.
        """
        with self._buffer_lock:
            running = self._running.get(trial_id)
            if running is not None and running.unwritten:
                with suppress(UpdateFinishedTrialError, KeyError):
                    self._flush(running)
        holder = running if lost is None else lost
        worker = None if holder is None else holder.worker
        with self.transaction() as session:
            claims.lock_study(session, study_id, self._identity(study_id))
            # If this is run twice, the second run finds nothing.
            if not claims.fail(session, study_id, trial_id, worker):
                return "ended"
            own = claims.recipe_of(session, study_id, trial_id)
            state: GivenBack = "ended"
            mark: dict[str, Any] = {"key": INTERRUPTED_ATTR, "value_json": "true"}
            if own is not None:
                recipe, attempt = own
                state = "waiting" if lost is None or attempt <= RECIPE_RETRIES else "given up"
                if state == "waiting":
                    trial = read_trials(session, [TRIALS.c.trial_id == trial_id], {})[0]
                    # One that was waiting may have been lost before its parameters were written.
                    given = trial.system_attrs.get(FIXED_ATTR, {})
                    waiting = _waiting({**given, **trial.params}, trial.number)
                    next_id = self.insert_trial(session, study_id, waiting).trial_id
                    attempt += lost is not None
                    claims.take_over(session, study_id, recipe, trial_id, next_id, attempt)
                else:
                    mark = {"key": GIVEN_UP_ATTR, "value_json": str(attempt)}
            session.execute(insert(USER_ATTRS).values(trial_id=trial_id, **mark))
        with self._buffer_lock:
            self._running.pop(trial_id, None)
        return state

    def runs_here(self, trial_id: int) -> bool:
        """Whether a trial runs in this object, as far as it knows."""
        return trial_id in self._running

    @outlast
    def is_running(self, trial_id: int) -> bool:
        """Whether a trial is running, according to the database."""
        with self.transaction() as session:
            state = session.scalar(select(TRIALS.c.state).where(TRIALS.c.trial_id == trial_id))
        return state == TrialState.RUNNING

    @outlast
    def others(self, study_id: int) -> list[Running]:
        """The trials of a study that do not run in this object."""
        with self.transaction() as session:
            found = heartbeats.signs_of_life(session, study_id)
        return [trial for trial in found if trial.trial_id not in self._running]

    def retry_lost(
        self,
        study_id: int,
        is_dead: Callable[[str], bool],
        is_alive: Callable[[str], bool] = lambda _: False,
    ) -> tuple[list[int], list[int]]:
        """Give back the trials of workers that died, as :class:`Watch` tells.

        Returns the numbers of those whose recipes wait again, and of those that were given up.

        Args:
            study_id: of the study.
            is_dead: whether a worker, as ``Assignment.worker`` named it, is known to have died.
            is_alive: whether one is known to live.
        """
        lost = self._watch.lost(self.others(study_id), is_dead, is_alive)
        states = [self.give_back(study_id, trial.trial_id, lost=trial) for trial in lost]
        waiting, given_up = (
            [trial.number for trial, state in zip(lost, states, strict=True) if state == wanted]
            for wanted in ("waiting", "given up")
        )
        return waiting, given_up

    @outlast
    def trials(self, ids: Sequence[int]) -> list[FrozenTrial]:
        """Some trials, by their ids; :meth:`get_all_trials` takes long where a study has many."""
        found: list[FrozenTrial] = []
        with self.transaction() as session:
            for start in range(0, len(ids), AT_ONCE):
                some = ids[start : start + AT_ONCE]
                found += read_trials(session, [TRIALS.c.trial_id.in_(some)], {})
        return found

    @outlast
    def first_waiting(self, study_id: int) -> int | None:
        """The id of the trial of a study that has waited longest; None if none waits."""
        with self.transaction() as session:
            return claims.first_waiting(session, study_id)

    @outlast
    def completed(self, study_id: int) -> int:
        """How many trials of a study are complete."""
        with self.transaction() as session:
            return claims.trials_in(session, study_id, TrialState.COMPLETE)

    @outlast
    def finished(self, study_id: int) -> int:
        """How many distinct recipes of a study are finished, which its budget limits."""
        with self.transaction() as session:
            return claims.finished_recipes(session, study_id)


def _waiting(params: Mapping[str, Any], retry_of: int | None = None) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.WAITING,
        system_attrs={FIXED_ATTR: dict(params)},
        user_attrs={} if retry_of is None else {RETRY_ATTR: retry_of},
    )


# Methods that a worker's thread, a sampler or the dashboard calls, and that are safe to repeat.
for _name in (
    "create_new_study",
    "get_all_studies",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_system_attrs",
    "get_trial_user_attrs",
    "record_heartbeat",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_system_attr",
    "set_trial_user_attr",
    "find_trials",
    "set_param",
):
    setattr(WorkStorage, _name, outlast(getattr(WorkStorage, _name)))
