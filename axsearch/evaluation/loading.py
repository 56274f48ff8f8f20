"""A study's task, from what the database holds of it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from axsearch.errors import UsageError
from axsearch.progress import console
from axsearch.study.spec import StudySpec
from axsearch.system.devices import check_device
from axsearch.tasks.spec import TaskSpec
from axsearch.tasks.task import Task


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
