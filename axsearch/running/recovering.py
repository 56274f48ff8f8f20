"""Recover models of a study: train what their cuts left, and add them to the study's trials."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from sqlalchemy import Engine
from transformers import PreTrainedModel

from axsearch.errors import UsageError
from axsearch.evaluation.accuracy import NonFiniteError, predict
from axsearch.evaluation.bfloat16 import is_fast
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.loading import load_task, shown_evaluators
from axsearch.evaluation.trained import read_trained
from axsearch.models.weights import WithTrained
from axsearch.options import describes
from axsearch.progress import console, counted, steps
from axsearch.running.finishing import finish_front, note
from axsearch.running.recovered_trials import Recovered, add_recovered
from axsearch.running.recovery_order import candidates_of, each, halved, is_plain, raced, whom
from axsearch.space.recipe import Recipe
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.metrics import value
from axsearch.store.outages import at_once
from axsearch.store.trained_weights import WeightsStore, weights_store
from axsearch.study.study import Study
from axsearch.system.interrupts import Interrupts
from axsearch.tasks.task import Task
from axsearch.training.checkpoints import run_folder
from axsearch.training.learning_rate import recover as train_model
from axsearch.training.lesson import Teacher
from axsearch.training.recovery import SMALLER, NotFiniteError, Pupil, Run, Trained, own_copy
from axsearch.training.request import CANDIDATES, RecoverySettings
from axsearch.training.soup import State, greedy_soup

WEIGHTS = "weights.safetensors"

PROCEDURE = 2
"""Of the training: weights that another one made have other keys."""


@describes(
    RecoverySettings,
    {
        "study": "with finished trials.",
        "trial": "whose model to train.",
        "front": "train all models of the front.",
        "candidates": "train so many models, the front's first, for one pass each, and those that "
        "no other of them beats then for all passes.",
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
    candidates: int | None = None,
    max_drop: float | None = None,
    epochs: int = RecoverySettings.epochs,
    learning_rate: float | None = RecoverySettings.learning_rate,
    seed: int = RecoverySettings.seed,
    soup: int = RecoverySettings.soup,
    label_weight: float = RecoverySettings.label_weight,
    adapters: int | None = RecoverySettings.adapters,
    unlabelled: str | None = RecoverySettings.unlabelled,
    model: str | None = None,
    data: str | None = None,
) -> list[Recovered]:
    """Train models of a study further, on the base's outputs and labels, as trials of their own.

    A recovered model is a trial of its own: as it was cut, it stays. Each is kept when it is done,
    and one that was interrupted goes on from its last checkpoint in the next call. Where a signal
    stops a training, the best model that it has found so far is added as well. The base itself is
    trained on the labels, as the control, and its last step counts. Calls in several
    processes of one user on one machine share the models of a front. Returns what was recovered,
    in the order in which it was.

    Raises:
        UsageError: none or several of ``trial``, ``front``, ``candidates`` and ``max_drop`` are
            given, nothing can be trained, model or data are not the study's, ``unlabelled`` cannot
            be read or holds nothing new, peft is missing for ``adapters``, the database can only
            be read, or it is a server's and there is no place for files (``AXSEARCH_WEIGHTS``).
        NotFiniteError: the loss of a single model is not finite; of a front it is left out.
        KeyboardInterrupt: stopped by the user; what was recovered is kept.
    """
    settings = RecoverySettings(
        epochs=epochs, learning_rate=learning_rate, seed=seed, soup=soup,
        label_weight=label_weight, adapters=adapters, unlabelled=unlabelled,
    )  # fmt: skip
    settings.check()
    wanted = whom(study, trial, front, candidates, max_drop)
    if unlabelled is not None and any(is_plain(Recipe.from_dict(m.recipe)) for m in wanted):
        raise UsageError(
            f"The model of trial {trial} answers as the base does, and so learns from labels, "
            "which `unlabelled` texts do not have."
        )
    study.database.check_writable()
    store = weights_store(study.database.engine)
    evaluator, teacher = _loaded(study, model, data, settings.unlabelled)
    work = _Recovering(study, evaluator, teacher, store)
    if max_drop is not None:
        return work.all(halved(study, work.recover, wanted, settings, max_drop))
    if candidates is not None:
        return work.all(raced(study, work.recover, wanted, settings))
    return work.all(each(work.recover, wanted, settings, alone=trial is not None))


def check_recoverable(task: Task, engine: Engine, device: str) -> None:
    """Raises UsageError where models of a study could not be recovered, before it has any."""
    weights_store(engine)
    Teacher(task, device)


def recover_searched(study: Study, evaluator: Evaluator) -> list[Recovered]:
    """What :func:`recover` does with :data:`CANDIDATES` models, at the end of a search.

    Raises KeyboardInterrupt: stopped by the user; what was recovered is kept.
    """
    study.refresh()
    wanted = candidates_of(study, CANDIDATES)
    if not wanted:
        console.print("No model was made smaller at a loss, so there is nothing to recover.")
        return []
    with steps(1) as begin:
        begin("Running the teacher")
        evaluator.weights.release()  # or its caches would take gigabytes of the training's room
        teacher = Teacher(evaluator.task, evaluator.device)
        _ = teacher.fingerprint
    work = _Recovering(study, evaluator, teacher, weights_store(evaluator.engine))
    return work.all(raced(study, work.recover, wanted, RecoverySettings()))


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
    ) -> None:
        self.study, self.interrupts = study, Interrupts()
        self._evaluator, self._teacher = evaluator, teacher
        self._store = store

    def all(self, order: Iterable[Recovered]) -> list[Recovered]:
        """All that is trained in this order, as it is once the front is finished."""
        done: list[Recovered] = []
        try:
            with Interrupts() as interrupts:
                self.interrupts = interrupts
                done += order
        except BaseException:
            # The front is finished by the next call: only the first error is reported, and soon.
            with suppress(Exception), at_once():
                note(self.study)
            raise
        if done:
            finish_front(self.study, self._evaluator)
            note(self.study)
        return [replace(one, after=self.study.trial(one.trial)) for one in done]

    def recover(
        self, before: Measurement, settings: RecoverySettings, *, wait: bool = True
    ) -> list[Recovered]:
        """Train one model, once or, for a soup, several times.

        The last one is the soup, or else the best of its members. Raises
        KeyboardInterrupt once the best so far is kept, where a signal came, and Timeout where
        another process trains it and ``wait`` is false.
        """
        first = self._train(before, settings, wait)
        if settings.soup == 1:
            return [first]
        others = (
            replace(settings, seed=seed, learning_rate=first.rate)
            for seed in range(settings.seed + 1, settings.seed + settings.soup)
        )
        more = (self._train(before, one, wait=True) for one in others)
        members = sorted([first, *more], key=lambda one: one.after.accuracy)
        return [*members, *self._soup(before, members)]

    def _train(self, before: Measurement, settings: RecoverySettings, wait: bool) -> Recovered:
        """One training of a model, as :meth:`recover` describes."""
        self.interrupts.check()
        recipe = Recipe.from_dict(before.recipe)
        task, device = self._evaluator.task, self._evaluator.device
        shown = shown_evaluators(self.study, task, [recipe], device)[recipe.hash]
        made = self._made(recipe, shown.weights.key, before, settings)
        key, seconds = _key(made), 0.0
        with run_folder(key, wait=wait, check=self.interrupts.check) as folder:
            if not self._store.is_whole(key):
                began = time.monotonic()
                small = shown.weights.shrink(recipe)
                shown.weights.release()  # as above
                self.interrupts.check()
                with counted(f"Recovering trial {before.trial}", f"trial {before.trial}") as told:
                    trained = self._trained(small, recipe, settings, folder, told)
                if trained.steps < trained.planned and self.interrupts.stopped:
                    if not trained.loss < trained.before:
                        raise KeyboardInterrupt  # there is no better one yet, but a checkpoint
                    made = {**made, "stopped_after": trained.steps}
                    key = _key(made)
                seconds = time.monotonic() - began
                facts = {
                    **made,
                    "learning_rate": trained.rate,
                    "loss": trained.loss,
                    "loss_before": trained.before,
                    "steps": trained.steps,
                }
                self._keep(key, recipe, trained.state, facts, seconds)
            if not self.interrupts.stopped:
                shutil.rmtree(folder, ignore_errors=True)
        rate = (self._store.made(key) or {}).get("learning_rate")
        try:
            found = add_recovered(
                self.study, self._evaluator, before, recipe.recovered(key), seconds
            )
        except NonFiniteError:  # as on the held part
            raise NotFiniteError(SMALLER) from None
        self.interrupts.check()
        return replace(found, rate=rate)

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
        own["label_weight"] = float(settings.label_weight)
        if is_plain(recipe):  # which learns from labels alone
            del own["label_weight"]
        if settings.adapters is None:
            del own["adapters"]
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
            label_weight=settings.label_weight,
            adapters=settings.adapters,
        )
        lesson = self._teacher.lesson(recipe)
        layers = task.base.plan(recipe).layers
        pupil = Pupil(task.kind, task.base, layers, plain=is_plain(recipe))
        return train_model(lambda: own_copy(small), lesson, pupil, run, self._evaluator.device)

    def _keep(
        self, key: str, recipe: Recipe, state: State, made: dict[str, Any], seconds: float
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="axsearch-") as folder:
            path = Path(folder) / WEIGHTS
            save_file(dict(state), path)
            self._store.save(key, recipe, path, made, seconds)


def _key_of(one: Recovered) -> str:
    """The key of a recovered model's weights."""
    return str(one.after.recipe["recovery"])


def _key(made: dict[str, Any]) -> str:
    """The key of trained weights: that of what they follow from, whatever study asked for it."""
    facts = {name: value for name, value in made.items() if name not in ("study", "trial")}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
