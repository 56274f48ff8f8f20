"""The loop of a worker, for any objective: claim a trial, keep it alive, end it once.

It replaces ``Study.optimize``, whose heartbeats end with the first that cannot be written, and
which leaves a trial running where the process exits.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from axsearch.errors import AxsearchError, UsageError, cause
from axsearch.progress import console
from axsearch.space.recipe import Recipe
from axsearch.store.attributes import DROPPED_ATTR, FAILED_ATTR, RECIPE_ATTR
from axsearch.store.claims import RECIPE_RETRIES, Assignment, BudgetFullError
from axsearch.store.identity import GoneError
from axsearch.store.optuna_internals import begin_trial, end_trial, id_of_study, id_of_trial
from axsearch.store.outages import database_error, is_of_database
from axsearch.store.work_storage import WorkStorage
from axsearch.system.interrupts import Interrupts

WINDOW = 10
MOST_FAILURES = 5
"""This many failures among the last :data:`WINDOW` trials end a run."""

NOTHING_NEW = 50
"""This many proposals in a row that are not new end a run."""

MOST_HELD = 3
"""After this many proposals in a row that others are running, the loop waits for the last one."""

TAKEN = (UpdateFinishedTrialError, KeyError, ValueError)
"""Errors about a trial that others ended or deleted; some have other causes, too."""

POLL = 0.5
"""Seconds between two looks at other workers' trials."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class End:
    """How an evaluation ended.

    Attributes:
        values: of the objectives; None where it was stopped early.
        columns: of ``ax_trials``, see :class:`axsearch.store.models.TrialRow`.
        files: artifacts by name.
    """

    values: Sequence[float] | None
    columns: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


class ObjectiveFunction(Protocol):
    """The function that a loop evaluates, a value for each objective of the study."""

    def recipe(self, trial: optuna.Trial) -> Recipe:
        """Suggest the trial's parameters and return their recipe."""
        ...

    def evaluate(self, trial: optuna.Trial, recipe: Recipe) -> End:
        """Evaluate a recipe; an exception fails the trial, and the loop goes on."""
        ...


class Pulse:
    """A thread that reports that a trial is alive, even after an outage of the database.

    Args:
        storage: of the trial.
        interval: seconds between two signs of life.
    """

    def __init__(self, storage: WorkStorage, interval: float) -> None:
        self._storage = storage
        self._interval = interval
        self._trial: int | None = None
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator[Pulse]:
        """While open, the thread runs."""
        threading.Thread(target=self._run, daemon=True, name="heartbeat").start()
        try:
            yield self
        finally:
            self._ended.set()

    @contextmanager
    def of(self, trial_id: int) -> Iterator[None]:
        """While open, this trial is alive."""
        self._trial = trial_id
        try:
            yield
        finally:
            self._trial = None

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            trial = self._trial
            if trial is None:
                continue
            try:
                self._storage.record_heartbeat(trial)
            except Exception as error:  # whatever it was, the next one may be written
                log.info("No heartbeat of trial %d: %s", trial, cause(error))
        self._storage.remove_session()


class TrialLoop:
    """Runs trials of a study until enough distinct recipes of it are finished.

    Attributes:
        done: how many trials came to their end here.
        spent: seconds in trials, from their claims to their ends.

    Args:
        study: Optuna's, with its sampler; its storage must be ``storage``.
        storage: claims trials and recipes.
        objective: evaluates.
        worker: the name of this worker, see :func:`axsearch.system.liveness.worker_name`.
        wanted: how many distinct recipes are to be finished, by all workers together.
        is_dead: see :meth:`WorkStorage.retry_lost`.
        is_alive: see there.
        identity: of the study when what the objective evaluates was read from it; None takes the
            study as it is when the loop begins.
        on_trial: called after each of this loop's trials, with the number of finished recipes.
        ready: called before each trial; true ends the loop.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: WorkStorage,
        objective: ObjectiveFunction,
        *,
        worker: str,
        wanted: int,
        is_dead: Callable[[str], bool],
        is_alive: Callable[[str], bool] = lambda _: False,
        identity: str | None = None,
        on_trial: Callable[[int], None] | None = None,
        ready: Callable[[], bool] = lambda: False,
    ) -> None:
        self.study = study
        self.storage = storage
        self.objective = objective
        self.assignment = Assignment(id_of_study(study), wanted, worker, identity)
        self.is_dead = is_dead
        self.is_alive = is_alive
        self.on_trial = on_trial
        self.ready = ready
        self.done = 0
        self.spent = 0.0
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self._nothing_new = 0
        self._held = 0
        self._looked = -math.inf
        self._waits = False

    def join(self) -> None:
        """Take part in the study, before anything is written to it.

        Raises AxsearchError where it is not the one that the objective evaluates for, or the
        database failed.
        """
        with self._in_words():
            self.storage.work_on(self.assignment)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except GoneError as error:
            raise self._gone() from error
        except Exception as error:
            if is_of_database(error):
                raise database_error(error) from error
            raise

    def run(self) -> None:
        """Run trials; returns when all workers have finished enough, or nothing new is proposed.

        Raises:
            AxsearchError: more than half of at least five trials failed, the study was deleted or
                replaced, or the database failed; :class:`DatabaseAwayError` after a long outage.
            KeyboardInterrupt: a signal came; the trial that ran waits to be tried again.
        """
        self.join()
        pulse, interrupts = Pulse(self.storage, self.storage.grace / 4), Interrupts()
        try:
            with self._in_words(), interrupts, pulse.running():
                self._loop(interrupts, pulse)
        except Exception as error:
            if interrupts.stopped:
                raise KeyboardInterrupt from error
            raise

    def _loop(self, interrupts: Interrupts, pulse: Pulse) -> None:
        while True:
            interrupts.check()
            self._look_after_others()
            if self.ready():
                break
            began = time.monotonic()
            try:
                trial = self._ask()
            except BudgetFullError:
                if self.storage.finished(self.assignment.study_id) >= self.assignment.wanted:
                    break
                self._wait(interrupts)
                continue
            except KeyError:
                raise GoneError from None
            self._waits = False
            with pulse.of(id_of_trial(trial)):
                self._run(trial, interrupts)
            self.spent += time.monotonic() - began
            if self._nothing_new >= NOTHING_NEW:
                console.print(
                    f"The sampler proposed nothing new {NOTHING_NEW} times: the study has "
                    f"{self.storage.finished(self.assignment.study_id)} models."
                )
                break

    def _ask(self) -> optuna.Trial:
        if self.storage.first_waiting(self.assignment.study_id) is not None:
            return self.study.ask()
        return begin_trial(self.study)

    def _run(self, trial: optuna.Trial, interrupts: Interrupts) -> None:
        trial_id = id_of_trial(trial)
        try:
            with interrupts.at_once():
                recipe = self.objective.recipe(trial)
                trial.set_user_attr(RECIPE_ATTR, recipe.hash)  # other workers see what runs
                claim = self.storage.claim(trial_id, recipe)
                if claim.state in ("held", "given up"):  # waits where a signal may end it
                    self._drop(trial, claim.trial, claim.state)
                    return
                interrupts.check()  # a signal within the claim may have been taken for an outage
                end = self.objective.evaluate(trial, recipe)
                problem = self._problem(end)
        except Exception as error:
            if interrupts.stopped:  # what a signal stopped may have raised an error of its own
                self.storage.give_back(self.assignment.study_id, trial_id)
                raise KeyboardInterrupt from error
            if is_of_database(error) or isinstance(error, GoneError):
                raise  # the trial is lost, and tried again where its study still is
            if isinstance(error, TAKEN) and self._taken(trial):
                return
            problem = cause(error)
            if not isinstance(error, AxsearchError):
                problem = f"{type(error).__name__}: {problem}"
            if isinstance(error, UsageError):  # no other trial would fare better
                self._fail(trial, problem)
                raise
        except BaseException:
            with suppress(GoneError):
                self.storage.give_back(self.assignment.study_id, trial_id)
            raise
        if problem is not None:
            self._fail(trial, problem)
            return
        self._held = 0
        self._nothing_new = 0 if claim.state == "own" else self._nothing_new + 1
        self.storage.at_end(trial_id, {**end.columns, "finished": True}, end.files)
        if self._tell(trial, end.values, None if end.values is not None else TrialState.PRUNED):
            self.done += 1
            self._recent.append(False)
            if self.on_trial is not None:
                self.on_trial(self.storage.finished(self.assignment.study_id))

    def _problem(self, end: End) -> str | None:
        if end.values is None:
            return None
        if len(end.values) != len(self.study.directions):
            return f"{len(end.values)} values for {len(self.study.directions)} objectives"
        if not all(math.isfinite(value) for value in end.values):
            return f"values that are not finite: {', '.join(map(str, end.values))}"
        return None

    def _tell(
        self, trial: optuna.Trial, values: Sequence[float] | None, state: TrialState | None
    ) -> bool:
        """End a trial; false where others did, which assumed that this worker had died."""
        try:
            end_trial(self.study, trial, values, state)
        except GoneError:
            raise
        except TAKEN:
            if not self._taken(trial):
                raise
            return False
        return True

    def _taken(self, trial: optuna.Trial) -> bool:
        """Whether others ended a trial; raises GoneError where it was deleted or replaced."""
        trial_id = id_of_trial(trial)
        try:
            state = self.storage.get_trial(trial_id).state
        except KeyError:
            raise GoneError from None
        if state == TrialState.RUNNING:
            if not self.storage.runs_here(trial_id):  # another one, under the same id
                raise GoneError
            return False
        console.print(
            f"Trial {trial.number} was given to another worker, because this one had shown no "
            "sign of life; it continues with the next trial.",
            style="yellow",
        )
        return True

    def _gone(self) -> AxsearchError:
        return AxsearchError(
            f"Study {self.study.study_name!r} was deleted while it ran, or its database was "
            "replaced by a copy; what was evaluated is kept: run the same command again."
        )

    def _fail(self, trial: optuna.Trial, problem: str) -> None:
        trial.set_user_attr(FAILED_ATTR, problem)
        if not self._tell(trial, None, TrialState.FAIL):
            return
        console.print(f"Trial {trial.number} failed: {problem}")
        self._recent.append(True)
        failures = sum(self._recent)
        if failures >= MOST_FAILURES and 2 * failures > len(self._recent):
            raise AxsearchError(
                f"{failures} of the last {len(self._recent)} trials failed, the last one with: "
                f"{problem}. Check the base model and run the same command to continue."
            )

    def _drop(self, trial: optuna.Trial, holder: int, state: str) -> None:
        trial.set_user_attr(DROPPED_ATTR, {"state": state, "trial_id": holder})
        self._tell(trial, None, TrialState.FAIL)
        if state == "given up":
            self._nothing_new += 1
            return
        self._held += 1
        while self._held > MOST_HELD and self.storage.is_running(holder):
            self._look_after_others()
            time.sleep(POLL)

    def _look_after_others(self) -> None:
        """Give back the trials of workers that died, every quarter of the grace period."""
        if time.monotonic() - self._looked < self.storage.grace / 4:
            return
        lost, given_up = self.storage.retry_lost(
            self.assignment.study_id, self.is_dead, self.is_alive
        )
        self._looked = time.monotonic()
        for number in lost:
            console.print(f"Trial {number} was lost with its worker; its model is tried again.")
        for number in given_up:
            console.print(
                f"Trial {number} was lost with its worker, like {RECIPE_RETRIES} before it; its "
                "model is given up.",
                style="yellow",
            )

    def _wait(self, interrupts: Interrupts) -> None:
        """Wait for other workers' trials: if a worker dies, there is more to do."""
        if not self._waits and (others := self.storage.others(self.assignment.study_id)):
            self._waits = True
            numbers = ", ".join(str(trial.number) for trial in others)
            console.print(f"Waiting for other workers' trials: {numbers}.", style="dim")
        with interrupts.at_once():
            time.sleep(POLL)
