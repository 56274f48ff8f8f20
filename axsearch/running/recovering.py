"""Recover models of a study: train what their cuts left, and add them to the study's trials."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from filelock import Timeout
from optuna.trial import TrialState
from safetensors.torch import save_file
from transformers import PreTrainedModel

from axsearch.errors import UsageError
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.loading import load_task, shown_evaluators
from axsearch.progress import console, progress_bar, steps
from axsearch.running.finishing import finish_front, note
from axsearch.running.objective import columns_of, files_of
from axsearch.space.recipe import EXACT, Recipe
from axsearch.statistics.divergence import divergence_of_losses
from axsearch.statistics.measurement import Measurement
from axsearch.store.attributes import (
    CONSTRAINTS_ATTR,
    DIVERGENCE_ATTR,
    MEASUREMENT_ATTR,
    RECIPE_ATTR,
    RECOVERED_ATTR,
    WORKER_ATTR,
)
from axsearch.store.outages import at_once
from axsearch.store.trained_weights import WeightsStore, weights_store
from axsearch.study.choosing import ORDERS
from axsearch.study.spec import OBJECTIVES, limits
from axsearch.study.study import Study
from axsearch.study.trial_records import KNOWN_OTHERWISE
from axsearch.system.interrupts import Interrupts
from axsearch.system.liveness import worker_name
from axsearch.training.checkpoints import run_folder
from axsearch.training.lesson import Teacher
from axsearch.training.recovery import Pupil, Run, Trained, own_copy
from axsearch.training.recovery import recover as train_model
from axsearch.training.request import RecoverySettings

WEIGHTS = "weights.safetensors"

PROCEDURE = 1
"""Of the training: weights that another one made have other keys."""


@dataclass(frozen=True)
class Recovered:
    """A model that was trained further.

    Attributes:
        trial: of the recovered model.
        before: the model as it was cut.
        after: the recovered model.
        seconds: of its training; 0 where the model was trained before.
    """

    trial: int
    before: Measurement
    after: Measurement
    seconds: float


def recover(
    study: Study,
    *,
    trial: int | None = None,
    front: bool = False,
    max_drop: float | None = None,
    settings: RecoverySettings | None = None,
    model: str | None = None,
    data: str | None = None,
) -> list[Recovered]:
    """Train models of a study further, with the base as their teacher, and add them to its trials.

    A recovered model is a trial of its own: as it was cut, it stays. Each is kept when it is done,
    and one that was interrupted goes on from its last checkpoint in the next call. Where a signal
    stops a training, the best model that it has found so far is added as well. Calls in several
    processes of one user on one machine share the models of a front.

    Args:
        study: with finished trials.
        trial: whose model to train.
        front: train all models of the front.
        max_drop: train models of the front until the fastest (else the smallest) is found that is
            expected to lose at most this much on new data once it is trained. That takes as many
            trainings as halving the front does.
        settings: how to train; the usual ones if None.
        model: where the base lies on this machine, if elsewhere than where the study began.
        data: the same for the data.

    Returns:
        What was recovered, in the order in which it was.

    Raises:
        UsageError: none or several of ``trial``, ``front`` and ``max_drop`` are given, nothing can
            be trained, model or data are not the study's, the database can only be read, or it is a
            server's and there is no place for files (``AXSEARCH_WEIGHTS``).
        AxsearchError: the loss is not finite.
        KeyboardInterrupt: stopped by the user; what was recovered is kept.
    """
    settings = settings or RecoverySettings()
    settings.check()
    wanted = _wanted(study, trial, front, max_drop)
    study.database.check_writable()
    store = weights_store(study.database.engine)
    evaluator, teacher = _loaded(study, model, data)
    work = _Recovering(study, evaluator, teacher, store, settings)
    done: list[Recovered] = []
    try:
        with Interrupts() as interrupts:
            work.interrupts = interrupts
            each = _each(work, wanted) if max_drop is None else _halved(work, wanted, max_drop)
            done += each
    except BaseException:
        # The front is finished by the next call: only the first error is reported, and soon.
        with suppress(Exception), at_once():
            note(study)
        raise
    if done:
        finish_front(study, evaluator)
        note(study)
    return [replace(one, after=study.trial(one.trial)) for one in done]


def _loaded(study: Study, model: str | None, data: str | None) -> tuple[Evaluator, Teacher]:
    """What measures models and what they learn from; raises UsageError as :func:`recover` does."""
    spec, engine = study.spec, study.database.engine
    with steps(2) as begin:
        begin("Loading model and data")
        task = load_task(spec, model=model, data=data)
        evaluator = Evaluator(
            task, engine, spec.scenario, spec.device, spec.dtype, machine=spec.machine
        )
        begin("Running the teacher")
        teacher = Teacher(task, spec.device)
        _ = teacher.fingerprint
    return evaluator, teacher


def _wanted(
    study: Study, trial: int | None, front: bool, max_drop: float | None
) -> list[Measurement]:
    """The models to train, the fastest first; raises UsageError where there is none."""
    if (trial is not None) + front + (max_drop is not None) != 1:
        raise UsageError("Say what to recover: one of `trial`, `front` and `max_drop`.")
    base = study.baseline  # or there is nothing to compare with
    if trial is not None:
        return [study.trial(trial)]
    if max_drop is not None and not 0 <= max_drop < 1:
        raise UsageError(f"`max_drop` must be from 0 to below 1, such as 0.01, not {max_drop}.")
    own = [m for m in study.front() if m.recipe != base.recipe and m.recovered_from is None]
    # A recovered model may have pushed the one that it was made from off the front.
    before = {m.recovered_from for m in study.front()} - {None}
    own += [m for m in study.measurements if m.trial in before and m.recovered_from is None]
    found = {m.trial: m for m in own if Recipe.from_dict(m.recipe).lossy != EXACT}
    if not found:
        raise UsageError(
            f"The front of study {study.name!r} has no model that was made smaller at a loss; "
            "`trial` names any other."
        )
    return sorted(found.values(), key=ORDERS["latency"])


def _each(work: _Recovering, models: Sequence[Measurement]) -> Iterator[Recovered]:
    """Train all of these models, last those that another process has begun with."""
    left = models
    for wait in (False, True):
        later = []
        for one in left:
            try:
                yield from work.recover(one, wait=wait)
            except Timeout:
                later.append(one)
        left = later


def _halved(work: _Recovering, models: Sequence[Measurement], most: float) -> Iterator[Recovered]:
    """Train models, halving those that are left: after one that loses too much, slower ones."""
    study = work.study
    low, high = 0, len(models) - 1
    while low <= high:
        middle = (low + high) // 2
        found = work.recover(models[middle])
        yield from found
        last = study.trial(found[-1].trial) if found else models[middle]
        expected = study.expectation(last)
        drop = study.baseline.accuracy - last.accuracy if expected is None else expected.drop
        low, high = (low, middle - 1) if drop <= most else (middle + 1, high)


class _Recovering:
    """Trains models of a study, one after the other.

    Attributes:
        study: of the models.
        interrupts: whose signals end a training.
    """

    def __init__(
        self,
        study: Study,
        evaluator: Evaluator,
        teacher: Teacher,
        store: WeightsStore,
        settings: RecoverySettings,
    ) -> None:
        self.study, self.interrupts = study, Interrupts()
        self._evaluator, self._teacher = evaluator, teacher
        self._store, self._settings = store, settings

    def recover(self, before: Measurement, *, wait: bool = True) -> list[Recovered]:
        """Train one model; nothing where training brings it no nearer to the base.

        Raises KeyboardInterrupt once the best so far is kept, where a signal came, and Timeout
        where another process trains it and ``wait`` is false.
        """
        self.interrupts.check()
        recipe = Recipe.from_dict(before.recipe)
        shown = shown_evaluators(self.study, self._evaluator.task, [recipe])[recipe.hash]
        made = self._made(recipe, shown.weights.key, before)
        key = _key(made)
        seconds = 0.0
        with run_folder(key, wait=wait) as folder:
            if not self._store.known(key):
                began = time.monotonic()
                small = shown.weights.shrink(recipe)
                shown.weights.release()  # or its caches would take gigabytes of the training's room
                with _shown(before.trial) as told:
                    trained = self._trained(small, recipe, folder, told)
                if not trained.divergence < trained.before:
                    console.print(
                        f"Training brings the model of trial {before.trial} no nearer to the base; "
                        "it stays as it is.",
                        style="yellow",
                    )
                    self.interrupts.check()
                    return []
                if trained.steps < trained.planned and self.interrupts.stopped:
                    made = {**made, "stopped_after": trained.steps}
                    key = _key(made)
                seconds = time.monotonic() - began
                self._keep(key, recipe, trained, made, folder, seconds)
            if not self.interrupts.stopped:
                shutil.rmtree(folder, ignore_errors=True)
        found = self._add(before, recipe.recovered(key), seconds)
        self.interrupts.check()
        return [found]

    def _made(self, recipe: Recipe, weights: str, before: Measurement) -> dict[str, Any]:
        """All that the trained weights follow from."""
        task, own = self._evaluator.task, asdict(self._settings)
        return {
            "procedure": PROCEDURE,
            "study": self.study.name,
            "trial": before.trial,
            "model": task.model_fingerprint,
            "recipe": recipe.hash,
            "calibration": task.calibration.fingerprint,
            "weights": weights,
            "lesson": hashlib.sha256(self._teacher.fingerprint.encode()).hexdigest(),
            **own,
        }

    def _trained(
        self, small: PreTrainedModel, recipe: Recipe, folder: Path, told: Callable[[int, int], None]
    ) -> Trained:
        task, settings = self._evaluator.task, self._settings
        run = Run(
            folder,
            settings.learning_rate,
            settings.epochs,
            settings.seed,
            told,
            lambda: self.interrupts.stopped,
        )
        lesson = self._teacher.lesson(recipe)
        pupil = Pupil(task.kind, task.base, task.base.plan(recipe).layers)
        return train_model(lambda: own_copy(small), lesson, pupil, run, self._evaluator.device)

    def _keep(
        self,
        key: str,
        recipe: Recipe,
        trained: Trained,
        made: dict[str, Any],
        folder: Path,
        seconds: float,
    ) -> None:
        path = folder / WEIGHTS
        save_file(trained.state, path)
        facts = {
            **made,
            "learning_rate": trained.rate,
            "divergence": trained.divergence,
            "divergence_before": trained.before,
            "steps": trained.steps,
        }
        self._store.save(key, recipe, path, facts, seconds)

    def _add(self, before: Measurement, recipe: Recipe, seconds: float) -> Recovered:
        """Evaluate a recovered model and make it a trial, where it is none yet."""
        study, evaluator = self.study, self._evaluator
        assert before.trial is not None
        found = evaluator.accuracy(recipe, evaluator.task.search)
        source = study.frozen([before.trial])[before.trial]
        given = source.user_attrs[MEASUREMENT_ATTR]
        after = Measurement.model_validate(
            {
                **given,
                "recipe": recipe.to_dict(),
                "accuracy": found.value,
                "accuracy_low": found.low,
                "accuracy_high": found.high,
            }
        )
        stored = after.model_dump(mode="json", exclude=KNOWN_OTHERWISE)
        losses, exact = evaluator.losses(recipe), evaluator.losses(EXACT)
        excess = limits(study.spec, study.baseline.accuracy, after)
        feasible = all(value <= 1e-12 for value in excess.values())
        objectives = study.spec.objectives
        template = optuna.trial.create_trial(
            state=TrialState.COMPLETE,
            params=source.params,
            distributions=source.distributions,
            values=[OBJECTIVES[name].value(after) for name in objectives],
            user_attrs={
                RECIPE_ATTR: recipe.hash,
                RECOVERED_ATTR: before.trial,
                MEASUREMENT_ATTR: stored,
                DIVERGENCE_ATTR: divergence_of_losses(losses, exact),
            },
            system_attrs={WORKER_ATTR: worker_name()}
            | ({CONSTRAINTS_ATTR: list(excess.values())} if excess else {}),
        )
        columns = {
            **columns_of(after, objectives, feasible=feasible),
            "seconds": seconds,
            "worker": worker_name(),
        }
        files = files_of(recipe, after) if feasible else {}
        number, new = study.database.storage.add_recovered(
            study.id, recipe, template, columns, files
        )
        study.refresh()
        words = "recovered" if new else "was recovered before"
        base, metric = study.baseline.accuracy, study.spec.metric
        console.print(
            f"Trial {before.trial} {words} as trial {number}: {metric} {after.accuracy:.4f} "
            f"({before.accuracy:.4f} as cut, {base:.4f} of the base), {seconds:.0f} s."
        )
        return Recovered(number, before, study.trial(number), seconds)


def _key(made: dict[str, Any]) -> str:
    """The key of trained weights: that of what they follow from, whatever study asked for it."""
    facts = {name: value for name, value in made.items() if name not in ("study", "trial")}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@contextmanager
def _shown(trial: int | None) -> Iterator[Callable[[int, int], None]]:
    """Progress of a training: a bar in a terminal, else a line at each tenth."""
    with progress_bar() as progress:
        bar = progress.add_task(f"Recovering trial {trial}", total=None)
        said = 0

        def told(done: int, planned: int) -> None:
            nonlocal said
            progress.update(bar, completed=done, total=planned)
            if not console.is_terminal and 10 * done // planned > said:
                said = 10 * done // planned
                console.print(f"trial {trial}: step {done} of {planned}", style="dim")

        yield told
