"""A study's task, from what the database holds of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace
from pathlib import Path

from axsearch.errors import UsageError
from axsearch.evaluation.closed_form import polished
from axsearch.evaluation.evaluator import Evaluator
from axsearch.models.weights import ClosedForm
from axsearch.progress import console
from axsearch.space.recipe import Recipe
from axsearch.study.spec import StudySpec
from axsearch.study.study import Study
from axsearch.system.devices import check_device
from axsearch.tasks.spec import TaskSpec
from axsearch.tasks.task import Task


def polished_weights(spec: StudySpec, task: Task, device: str) -> ClosedForm:
    """The weights that the models of a study's front are polished to.

    Raises UsageError where the training data are not those that the study began with.
    """
    found = polished(task, device)
    if found.key != spec.polished:
        raise UsageError(
            f"The training data in {task.data_name} are not those that the study was made with."
        )
    return found


class MovedError(UsageError):
    """The model or the data of a study are not where they were when it began."""


def load_task(
    spec: StudySpec, *, model: str | None = None, data: str | None = None, device: str | None = None
) -> Task:
    """The task of a study; raises UsageError where its model or data are not what they were.

    That is a MovedError where there is nothing in their place.

    Args:
        spec: of the study.
        model: where the model lies on this machine, if elsewhere than where the study began.
        data: the same for the data.
        device: where it will be evaluated, if elsewhere.
    """
    check_device(device or spec.device)
    known = TaskSpec(**{one.name: getattr(spec, one.name) for one in fields(TaskSpec)})
    for what, given, place in (("model", model, known.model), ("data", data, known.data)):
        if given is None and Path(place).is_absolute() and not Path(place).exists():
            raise MovedError(
                f"The {what} of this study {'is' if what == 'model' else 'are'} not at {place} on "
                f"this machine; say where with `{what}`."
            )
    model, data = model or known.model, data or known.data
    task = Task.of(replace(known, model=model, data=data))
    if task.cut:
        console.print(task.cut, style="dim")
    if task.model_fingerprint != spec.model_fingerprint:
        raise UsageError(f"The model {model} is not the one that the study was made with.")
    if task.split_fingerprints != spec.splits:
        raise UsageError(f"The data {data} are not those that the study was made with.")
    return task


def shown_evaluators(
    study: Study, task: Task, recipes: Collection[Recipe], device: str | None = None
) -> dict[str, Evaluator]:
    """By recipe hash, an evaluator with the weights that a study shows of the recipe.

    Those are polished weights where the model was polished. None of them measures latency. They
    compute on ``device``, by default the study's. Raises UsageError where the training data are not
    those that the study began with.
    """
    engine, device = study.database.engine, device or study.spec.device
    hashes = [recipe.hash for recipe in recipes]
    known = study.polished(hashes)
    plain = Evaluator(task, engine, None, device)
    better = plain
    if known:
        weights = polished_weights(study.spec, task, device)
        better = Evaluator(task, engine, None, device, weights=weights)
    return {own: better if own in known else plain for own in hashes}
