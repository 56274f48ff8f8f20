"""Recover models of a study: train what their cuts left, and add them to the study's trials."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import Timeout
from safetensors.torch import save_file
from transformers import PreTrainedModel

from axsearch.errors import UsageError
from axsearch.evaluation.accuracy import predict
from axsearch.evaluation.bfloat16 import is_fast
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.loading import load_task, shown_evaluators
from axsearch.evaluation.trained import read_trained
from axsearch.models.weights import WithTrained
from axsearch.options import describes
from axsearch.progress import console, counted, steps
from axsearch.running.finishing import finish_front, note
from axsearch.running.recovered_trials import Recovered, add_recovered
from axsearch.space.recipe import Recipe
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.metrics import value
from axsearch.store.outages import at_once
from axsearch.store.trained_weights import WeightsStore, weights_store
from axsearch.study.choosing import ORDERS
from axsearch.study.study import Study
from axsearch.system.interrupts import Interrupts
from axsearch.training.checkpoints import run_folder
from axsearch.training.lesson import Teacher
from axsearch.training.recovery import NotFiniteError, Pupil, Run, Trained, own_copy
from axsearch.training.recovery import recover as train_model
from axsearch.training.request import RecoverySettings
from axsearch.training.soup import State, greedy_soup

WEIGHTS = "weights.safetensors"

IN_VAIN = "in-vain"
"""The file in a training's folder that says that it brought nothing."""

PROCEDURE = 1
"""Of the training: weights that another one made have other keys."""


@describes(
    RecoverySettings,
    {
        "study": "with finished trials.",
        "trial": "whose model to train.",
        "front": "train all models of the front.",
        "max_drop": "train models of the front until the fastest (else the smallest) is found that "
        "is expected to lose at most this much on new data once it is trained. That takes as many "
        "trainings as halving the front does.",
        "model": "where the base lies on this machine, if elsewhere than where the study began.",
        "data": "the same for the data.",
    },
)
def recover(
    study: Study,
    *,
    trial: int | None = None,
    front: bool = False,
    max_drop: float | None = None,
    epochs: int = RecoverySettings.epochs,
    learning_rate: float | None = RecoverySettings.learning_rate,
    seed: int = RecoverySettings.seed,
    soup: int = RecoverySettings.soup,
    unlabelled: str | None = RecoverySettings.unlabelled,
    model: str | None = None,
    data: str | None = None,
) -> list[Recovered]:
    """Train models of a study further, with the base as their teacher, and add them to its trials.

    A recovered model is a trial of its own: as it was cut, it stays. Each is kept when it is done,
    and one that was interrupted goes on from its last checkpoint in the next call. Where a signal
    stops a training, the best model that it has found so far is added as well. The base itself is
    trained on the labels, as the control, and its last step counts. Calls in several
    processes of one user on one machine share the models of a front. Returns what was recovered,
    in the order in which it was.

    Raises:
        UsageError: none or several of ``trial``, ``front`` and ``max_drop`` are given, nothing can
            be trained, model or data are not the study's, ``unlabelled`` cannot be read or holds
            nothing new, the database can only be read, or it is a server's and there is no place
            for files (``AXSEARCH_WEIGHTS``).
        NotFiniteError: the loss of a single model is not finite; of a front it is left out.
        KeyboardInterrupt: stopped by the user; what was recovered is kept.
    """
    settings = RecoverySettings(
        epochs=epochs, learning_rate=learning_rate, seed=seed, soup=soup, unlabelled=unlabelled
    )
    settings.check()
    wanted = _wanted(study, trial, front, max_drop)
    if unlabelled is not None and any(_is_plain(Recipe.from_dict(m.recipe)) for m in wanted):
        raise UsageError(
            f"The model of trial {trial} answers as the base does, and so learns from labels, "
            "which `unlabelled` texts do not have."
        )
    study.database.check_writable()
    store = weights_store(study.database.engine)
    evaluator, teacher = _loaded(study, model, data, settings.unlabelled)
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


def _loaded(
    study: Study, model: str | None, data: str | None, unlabelled: str | None
) -> tuple[Evaluator, Teacher]:
    """What measures models and what they learn from; raises UsageError as :func:`recover` does."""
    spec, engine = study.spec, study.database.engine
    with steps(2) as begin:
        begin("Loading model and data")
        task = load_task(spec, model=model, data=data)
        evaluator = Evaluator(
            task, engine, spec.scenario, spec.device, spec.dtype, machine=spec.machine
        )
        begin("Running the teacher")
        teacher = Teacher(task, spec.device, unlabelled=unlabelled)
        _ = teacher.fingerprint
    return evaluator, teacher


def _wanted(
    study: Study, trial: int | None, front: bool, max_drop: float | None
) -> list[Measurement]:
    """The models to train, the fastest first; raises UsageError where there is none."""
    if (trial is not None) + front + (max_drop is not None) != 1:
        raise UsageError("Say what to recover: one of `trial`, `front` and `max_drop`.")
    _ = study.baseline  # or there is nothing to compare with
    if trial is not None:
        one = study.trial(trial)
        if one.recovered_from is not None and _is_plain(Recipe.from_dict(one.recipe)):
            raise UsageError(
                f"The model of trial {trial} is the control, the base trained further; name the "
                f"trial that it was made from, {one.recovered_from}."
            )
        return [one]
    if max_drop is not None and not 0 <= max_drop < 1:
        raise UsageError(f"`max_drop` must be from 0 to below 1, such as 0.01, not {max_drop}.")
    # Of models as they were cut: a recovered one may have pushed others off the front, and a call
    # that goes on where another was stopped must train the same.
    front_as_cut = study.front_as_cut()
    found = [m for m in front_as_cut if not _is_plain(Recipe.from_dict(m.recipe))]
    if not found:
        raise UsageError(
            f"The front of study {study.name!r} has no model that was made smaller at a loss; "
            "`trial` names any other."
        )
    return sorted(found, key=ORDERS["latency"])


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
            except NotFiniteError as error:
                if len(models) == 1:
                    raise
                console.print(f"Trial {one.trial} is not recovered: {error}", style="yellow")
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
        """Train one model; nothing where training brings it nothing on the held examples.

        With a soup the last one is the soup, or else the best of its members. Raises
        KeyboardInterrupt once the best so far is kept, where a signal came, and Timeout where
        another process trains it and ``wait`` is false.
        """
        settings = self._settings
        first = self._train(before, settings, wait)
        if settings.soup == 1 or first is None:
            return [] if first is None else [first]
        rate = (self._store.made(_key_of(first)) or {})["learning_rate"]
        others = (
            replace(settings, seed=seed, learning_rate=rate)
            for seed in range(settings.seed + 1, settings.seed + settings.soup)
        )
        more = [self._train(before, one, wait=True) for one in others]
        members = [first, *(one for one in more if one is not None)]
        members.sort(key=lambda one: one.after.accuracy)
        return [*members, *self._soup(before, members)]

    def _train(
        self, before: Measurement, settings: RecoverySettings, wait: bool
    ) -> Recovered | None:
        """One training of a model, as :meth:`recover` describes."""
        self.interrupts.check()
        recipe = Recipe.from_dict(before.recipe)
        shown = shown_evaluators(self.study, self._evaluator.task, [recipe])[recipe.hash]
        made = self._made(recipe, shown.weights.key, before, settings)
        key, seconds = _key(made), 0.0
        with run_folder(key, wait=wait, check=self.interrupts.check) as folder:
            if (folder / IN_VAIN).is_file():
                return _in_vain(before)
            if not self._store.is_whole(key):
                began = time.monotonic()
                small = shown.weights.shrink(recipe)
                shown.weights.release()  # or its caches would take gigabytes of the training's room
                with counted(f"Recovering trial {before.trial}", f"trial {before.trial}") as told:
                    trained = self._trained(small, recipe, settings, folder, told)
                if not _is_plain(recipe) and not trained.divergence < trained.before:
                    self.interrupts.check()
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir(exist_ok=True)
                    (folder / IN_VAIN).touch()
                    return _in_vain(before)
                if trained.steps < trained.planned and self.interrupts.stopped:
                    made = {**made, "stopped_after": trained.steps}
                    key = _key(made)
                seconds = time.monotonic() - began
                facts = {
                    **made,
                    "learning_rate": trained.rate,
                    "divergence": trained.divergence,
                    "divergence_before": trained.before,
                    "steps": trained.steps,
                }
                self._keep(key, recipe, trained.state, facts, seconds)
            if not self.interrupts.stopped:
                shutil.rmtree(folder, ignore_errors=True)
        found = add_recovered(self.study, self._evaluator, before, recipe.recovered(key), seconds)
        self.interrupts.check()
        return found

    def _soup(self, before: Measurement, members: Sequence[Recovered]) -> list[Recovered]:
        """The greedy soup of trainings of one model; nothing where it is one training alone."""
        evaluator, recipe = self._evaluator, Recipe.from_dict(before.recipe)
        task, keys = evaluator.task, [_key_of(one) for one in members]
        states = [read_trained(evaluator.engine, key) for key in keys]

        def score(state: State) -> float:
            weights = WithTrained(evaluator.reference, lambda _: dict(state))
            split = task.read(task.search, recipe)
            model = weights.shrink(recipe.recovered("soup"))
            answers = predict(model, split, task.kind, device=evaluator.device)
            return value(task.kind.outcome(task.metric, split, answers))

        began = time.monotonic()
        chosen, state = greedy_soup(states, score)
        if len(chosen) == 1:
            console.print(
                f"No mean of the {len(members)} trainings of trial {before.trial} is as good on "
                "the search split as the best of them."
            )
            return []
        made = {
            "procedure": PROCEDURE, "study": self.study.name, "trial": before.trial,
            "soup_of": sorted(keys[place] for place in chosen),
        }  # fmt: skip
        key, seconds = _key(made), time.monotonic() - began
        if not self._store.is_whole(key):
            self._keep(key, recipe, state, made, seconds)
        return [add_recovered(self.study, evaluator, before, recipe.recovered(key), seconds)]

    def _made(
        self, recipe: Recipe, weights: str, before: Measurement, settings: RecoverySettings
    ) -> dict[str, Any]:
        """All that the trained weights follow from."""
        task, own, device = self._evaluator.task, asdict(settings), self._evaluator.device
        del own["soup"], own["unlabelled"]  # of which this is one member; the lesson has the texts
        return {
            "procedure": PROCEDURE,
            "study": self.study.name,
            "trial": before.trial,
            "model": task.model_fingerprint,
            "recipe": recipe.hash,
            "calibration": task.calibration.fingerprint,
            "weights": weights,
            "computed": f"{device}{', bfloat16' if is_fast(device) else ''}",
            "lesson": hashlib.sha256(self._teacher.fingerprint.encode()).hexdigest(),
            **own,
        }

    def _trained(
        self,
        small: PreTrainedModel,
        recipe: Recipe,
        settings: RecoverySettings,
        folder: Path,
        told: Callable[[int, int], None],
    ) -> Trained:
        task = self._evaluator.task
        run = Run(
            folder,
            settings.learning_rate,
            settings.epochs,
            settings.seed,
            told,
            lambda: self.interrupts.stopped,
        )
        lesson = self._teacher.lesson(recipe)
        layers = task.base.plan(recipe).layers
        pupil = Pupil(task.kind, task.base, layers, plain=_is_plain(recipe))
        return train_model(lambda: own_copy(small), lesson, pupil, run, self._evaluator.device)

    def _keep(
        self, key: str, recipe: Recipe, state: State, made: dict[str, Any], seconds: float
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="axsearch-") as folder:
            path = Path(folder) / WEIGHTS
            save_file(dict(state), path)
            self._store.save(key, recipe, path, made, seconds)


def _in_vain(before: Measurement) -> Recovered | None:
    console.print(
        f"Training brings the model of trial {before.trial} nothing on the examples that are held "
        "back; it stays as it is.",
        style="yellow",
    )
    return None


def _is_plain(recipe: Recipe) -> bool:
    """Whether a model answers as the base does."""
    return not recipe.lossy.sites


def _key_of(one: Recovered) -> str:
    """The key of a recovered model's weights."""
    return str(one.after.recipe["recovery"])


def _key(made: dict[str, Any]) -> str:
    """The key of trained weights: that of what they follow from, whatever study asked for it."""
    facts = {name: value for name, value in made.items() if name not in ("study", "trial")}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
